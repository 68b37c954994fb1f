"""``python -m benchmarks.scale``, from the project's root."""
