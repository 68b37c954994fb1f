"""The app's two services on Android, and how its screens start them.

``Worker`` does what the screens ask, in a process of its own; ``Rounds`` takes part in rounds that are
due and ends. python-for-android makes both from ``service.py``.
"""
