"""The main job: every aircraft that flew out of New York in 2013 is a device.

One private federated training run from end to end on public data, compared with what a server could
have trained if it had seen everything. The aircraft stand in for people: nobody's secret is in their
flights, and the demo shows how the system behaves, not that these data needed it.
"""
