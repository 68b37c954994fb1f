"""``python -m benchmarks.soak``: see :mod:`pocketfl_benchmarks.soak`."""

from pocketfl_benchmarks.soak.command import run

if __name__ == "__main__":
    run()
