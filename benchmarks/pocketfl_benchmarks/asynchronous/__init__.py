"""Synchronous against asynchronous rounds: time to the same AUC on a fleet of phones."""
