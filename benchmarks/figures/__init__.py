"""Figures of benchmarks as JSON; ``python -m benchmarks.figures`` draws those of the documents."""
