"""``python -m benchmarks.figures``: see :mod:`pocketfl_benchmarks.figures`."""

from pocketfl_benchmarks.figures import draw_all, write_zoo

if __name__ == "__main__":
    for path in [*draw_all(), *write_zoo()]:
        print(path)
