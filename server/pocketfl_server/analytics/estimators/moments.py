"""Mean and spread from noised sums of powers."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from pocketfl_server.analytics.estimators.intervals import Estimate, Vector, propagate


@dataclass(frozen=True, kw_only=True)
class MomentEstimates:
    """Of a number clamped to the query's range.

    Attributes
    ----------
    mean, deviation : Estimate
        In the number's own units; the population's standard deviation, not the sample's.
    """

    mean: Estimate
    deviation: Estimate


def estimate_moments(sums: Vector, *, noise: float, low: float, high: float) -> MomentEstimates:
    """Estimate mean and standard deviation.

    Parameters
    ----------
    sums : ndarray of float64, shape (k,)
        Noised sums of ``1``, ``u``, ``u**2`` and perhaps higher powers, which are not read, of
        ``u = (2 x - low - high) / (high - low)``.
    noise : float
        Standard deviation of each coordinate's noise.
    low, high : float
        The query's range.

    Returns
    -------
    MomentEstimates
        ``mean = E[u]``, ``variance = E[u**2] - E[u]**2``, both mapped back; a variance that noise made
        negative is 0.

    Raises
    ------
    ValueError
        If there are fewer than three sums.
    """
    if len(sums) < 3:
        raise ValueError("a standard deviation needs moments of order 2")
    half = (high - low) / 2

    def statistic(vectors: Vector) -> Vector:
        with np.errstate(divide="ignore", invalid="ignore"):
            count = np.where(vectors[..., 0] > 0, vectors[..., 0], np.nan)
            mean = vectors[..., 1] / count
            variance = np.clip(vectors[..., 2] / count - mean**2, 0, None)
        scaled = [low + half * (mean + 1), half * np.sqrt(variance)]
        return np.stack(scaled, axis=-1)

    mean, deviation = propagate(
        statistic,
        np.asarray(sums[:3], np.float64),
        noise=np.full(3, noise),
        low=-math.inf,
        high=math.inf,
    )
    return MomentEstimates(mean=mean, deviation=deviation)
