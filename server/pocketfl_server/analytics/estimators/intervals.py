"""Estimates with 95 % intervals, and how noise on a sum becomes noise on what is computed from it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

Vector: TypeAlias = NDArray[np.float64]

CONFIDENCE: Final = 0.95
NORMAL_QUANTILE: Final = 1.959964
"""Of the standard normal distribution, at 97.5 %."""
DRAWS: Final = 1000
"""Draws of the noise by which it is propagated: the ends of an interval move by some per cent of its
width from one seed to another."""
_SEED: Final = 20_825
"""Intervals are a function of the release: two readers of one release get the same."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A value and its 95 % interval.

    Attributes
    ----------
    value, low, high : float
        NaN, all three, where the sum says nothing: nobody was counted, or noise hides everybody.
    """

    value: float
    low: float
    high: float

    @classmethod
    def unknown(cls) -> Estimate:
        """Return the estimate of what the sum says nothing about."""
        return cls(value=math.nan, low=math.nan, high=math.nan)

    @property
    def is_known(self) -> bool:
        """Whether there is a value."""
        return not math.isnan(self.value)


def normal_estimate(value: float, *, deviation: float) -> Estimate:
    """Return a value with Gaussian error and its interval."""
    reach = NORMAL_QUANTILE * deviation
    return Estimate(value=value, low=value - reach, high=value + reach)


def propagate(
    statistic: Callable[[Vector], Vector], values: Vector, *, noise: Vector, low: float, high: float
) -> tuple[Estimate, ...]:
    """Estimate smooth functions of a noised vector.

    The noise's distribution is known, so it is drawn again and again around the released values: the
    spread of the statistic over those draws is its standard error (the parametric bootstrap; Efron and
    Tibshirani 1993, An Introduction to the Bootstrap, chapter 6). The spread is taken from the middle
    68 % of the draws, because a ratio has draws in which its denominator almost vanishes.

    Parameters
    ----------
    statistic : callable
        From vectors of shape ``(..., n)`` to statistics of shape ``(..., k)``; NaN where undefined.
    values : ndarray of float64, shape (n,)
        The released sum.
    noise : ndarray of float64, shape (n,)
        Standard deviation of each coordinate's noise.
    low, high : float
        Range that the statistics cannot leave; values and intervals are cut to it.

    Returns
    -------
    tuple of Estimate
        ``k`` of them.
    """
    found = np.atleast_1d(statistic(values))
    draws = values + noise * np.random.default_rng(_SEED).standard_normal((DRAWS, len(values)))
    spread = statistic(draws)
    estimates = []
    for place, value in enumerate(found):
        usable = spread[..., place][np.isfinite(spread[..., place])]
        # A tenth of the draws undefined: the noise is as large as what it is added to.
        if not math.isfinite(value) or len(usable) < 0.9 * DRAWS:
            estimates.append(Estimate.unknown())
            continue
        lower, upper = np.quantile(usable, [0.158655, 0.841345])
        made = normal_estimate(float(value), deviation=float(upper - lower) / 2)
        estimates.append(
            Estimate(
                value=min(max(made.value, low), high),
                low=min(max(made.low, low), high),
                high=min(max(made.high, low), high),
            )
        )
    return tuple(estimates)
