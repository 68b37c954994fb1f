"""``python -m benchmarks.figures``: see :mod:`pocketfl_benchmarks.figures`."""

from pocketfl_benchmarks.figures import draw_all

if __name__ == "__main__":
    for path in draw_all():
        print(path)
