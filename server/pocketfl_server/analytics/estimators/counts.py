"""Counts and shares from a noised histogram."""

from __future__ import annotations

import numpy as np

from pocketfl_server.analytics.estimators.intervals import (
    Estimate,
    Vector,
    normal_estimate,
)


def estimate_counts(values: Vector, *, noise: float) -> tuple[Estimate, ...]:
    """Estimate each count.

    Parameters
    ----------
    values : ndarray of float64, shape (n,)
        The noised histogram.
    noise : float
        Standard deviation of each coordinate's noise.

    Returns
    -------
    tuple of Estimate
        Unbiased, so a count near zero may come out below it.
    """
    return tuple(normal_estimate(float(value), deviation=noise) for value in values)


def estimate_shares(values: Vector, *, noise: float) -> tuple[Estimate, ...]:
    """Estimate each class's share of the whole.

    Parameters
    ----------
    values : ndarray of float64, shape (n,)
        The noised histogram, all classes of it.
    noise : float
        Standard deviation of each coordinate's noise.

    Returns
    -------
    tuple of Estimate
        Between 0 and 1. For ``share = x / T`` with ``T`` the sum of ``n`` coordinates of independent
        noise ``s``, the delta method gives the variance
        ``s**2 ((1 - share)**2 + (n - 1) share**2) / T**2``. Unknown where the total is within four of
        its standard deviations of zero: there the ratio has no useful interval.
    """
    total, count = float(values.sum()), len(values)
    if total <= 4 * noise * np.sqrt(count):
        return tuple(Estimate.unknown() for _ in values)
    estimates = []
    for value in values:
        share = float(value) / total
        deviation = noise / total * np.sqrt((1 - share) ** 2 + (count - 1) * share**2)
        made = normal_estimate(share, deviation=float(deviation))
        estimates.append(
            Estimate(
                value=min(max(made.value, 0.0), 1.0),
                low=min(max(made.low, 0.0), 1.0),
                high=min(max(made.high, 0.0), 1.0),
            )
        )
    return tuple(estimates)
