"""Half an hour of steady rounds: ``python -m benchmarks.soak``."""
