"""``python -m benchmarks.scale``: see :mod:`pocketfl_benchmarks.scale`."""

from pocketfl_benchmarks.scale.command import run

if __name__ == "__main__":
    run()
