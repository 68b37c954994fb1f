"""``python -m benchmarks.simulators``: see :mod:`pocketfl_benchmarks.simulators`."""

from pocketfl_benchmarks.simulators.command import run

if __name__ == "__main__":
    run()
