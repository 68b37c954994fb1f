"""Chaos: what a device may suffer in a round, and proof that nothing was lost, doubled or halved.

``python -m tests.chaos --runs 200 --seed 1 --json chaos.json`` runs it from the repository's root.
"""
