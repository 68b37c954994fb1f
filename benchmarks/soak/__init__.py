"""``python -m benchmarks.soak``, from the project's root."""
