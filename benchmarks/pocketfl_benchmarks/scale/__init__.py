"""How much one gateway takes, and what that means for a fleet: ``python -m benchmarks.scale``."""
