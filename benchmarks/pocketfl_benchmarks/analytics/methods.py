"""Which encoding of a histogram gives the best distribution function: what the choice rests on.

All encodings are linear maps of a device's histogram, get Gaussian noise in proportion to the largest
norm of a column, are decoded by least squares, and then moved to the nearest rising sequence.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pocketfl_benchmarks.analytics.distributions import draw_devices
from pocketfl_server.analytics.estimators.isotonic import nearest_rising

Matrix = NDArray[np.float64]

BINS: Final = (16, 64, 256)


def flat(bins: int) -> Matrix:
    """Every bin by itself."""
    return np.eye(bins)


def tree(bins: int, *, branching: int) -> Matrix:
    """Every level of a hierarchy but its root, a level of one node (Hay et al. 2010)."""
    parts, width = [], 1
    while width < bins:
        nodes = -(-bins // width)
        rows = np.zeros((nodes, bins))
        rows[np.arange(bins) // width, np.arange(bins)] = 1
        parts.append(rows)
        width *= branching
    return np.vstack(parts)


def square_root(bins: int) -> Matrix:
    """The square root of the matrix of running sums (Fichtenberger, Henzinger and Upadhyay 2023)."""
    steps = np.arange(1, bins)
    coefficients = np.concatenate([[1.0], np.cumprod((2 * steps - 1) / (2 * steps))])
    gaps = np.subtract.outer(np.arange(bins), np.arange(bins))
    return np.where(gaps >= 0, coefficients[np.abs(gaps)], 0.0)


ENCODINGS: Final[dict[str, Callable[[int], Matrix]]] = {
    "flat": flat,
    "tree, 2 children": lambda bins: tree(bins, branching=2),
    "tree, 4 children": lambda bins: tree(bins, branching=4),
    "tree, 16 children": lambda bins: tree(bins, branching=16),
    "square root": square_root,
}


def compare_encodings(
    values: Sequence[NDArray[np.float64]],
    *,
    low: float,
    high: float,
    seeds: int,
    noise_multiplier: float,
) -> dict[str, dict[str, float]]:
    """Measure each encoding with each number of bins.

    Parameters
    ----------
    values : sequence of ndarray of float64
        Each device's values; empty for a device that has none.
    low, high : float
        Range of the bins.
    seeds : int
        Draws of devices and noise.
    noise_multiplier : float
        Standard deviation over the encoding's largest norm.

    Returns
    -------
    dict
        By encoding and number of bins: median of the largest error of a share at any edge.
    """
    found: dict[str, dict[str, float]] = {}
    for bins in BINS:
        histograms = np.array([_histogram(rows, low, high, bins) for rows in values])
        for name, make in ENCODINGS.items():
            encoding = make(bins)
            norm = float(np.linalg.norm(encoding, axis=0).max())
            decoding = np.linalg.pinv(encoding)
            errors = []
            for seed in range(seeds):
                total = draw_devices(len(values), seed) @ histograms
                generator = np.random.default_rng((seed, bins))
                noise = generator.normal(0, noise_multiplier * norm, len(encoding))
                running = nearest_rising(np.cumsum(decoding @ (encoding @ total + noise)))
                exact = np.cumsum(total) / total.sum()
                shares = np.clip(running, 0, None) / running[-1]
                errors.append(float(np.abs(shares - exact).max()))
            found.setdefault(name, {})[str(bins)] = float(np.median(errors))
    return found


def _histogram(values: NDArray[np.float64], low: float, high: float, bins: int) -> Matrix:
    if len(values) == 0:
        return np.zeros(bins)
    places = np.clip((values - low) / (high - low) * bins, 0, bins - 1).astype(np.int64)
    return np.bincount(places, minlength=bins) / len(values)
