"""The nearest rising sequence."""

from __future__ import annotations

import numpy as np

from pocketfl_server.analytics.estimators.intervals import Vector


def nearest_rising(values: Vector) -> Vector:
    """Return the sequence that never falls and has the least squared distance to the values.

    Pool adjacent violators (Ayer et al. 1955): neighbours in the wrong order are replaced by their
    mean, until none are left.

    Parameters
    ----------
    values : ndarray of float64, shape (n,)
        Any order.

    Returns
    -------
    ndarray of float64, shape (n,)
        The projection.
    """
    means: list[float] = []
    sizes: list[int] = []
    for value in values.tolist():
        mean, size = value, 1
        while means and means[-1] > mean:
            other, others = means.pop(), sizes.pop()
            mean = (mean * size + other * others) / (size + others)
            size += others
        means.append(mean)
        sizes.append(size)
    return np.repeat(np.array(means, dtype=np.float64), sizes)


def between_bounds(values: Vector) -> Vector:
    """Return rising sequences close to the values: half-way between two bounds of the nearest one.

    The highest value so far lies above the nearest rising sequence, the lowest value still to come
    below it; the mean of the two needs no loop, so many sequences go through at once.

    Parameters
    ----------
    values : ndarray of float64, shape (..., n)
        Sequences along the last axis.

    Returns
    -------
    ndarray of float64, shape (..., n)
        Rising, and at least 0.
    """
    above = np.maximum.accumulate(values, axis=-1)
    below = np.minimum.accumulate(values[..., ::-1], axis=-1)[..., ::-1]
    middle: Vector = np.clip((above + below) / 2, 0, None)
    return middle
