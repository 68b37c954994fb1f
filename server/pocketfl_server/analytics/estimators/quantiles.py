"""Distribution function and quantiles from a noised hierarchy of histograms.

Every level of the hierarchy says something about every bin: a node's own count, the sum of its
children, and its part of its parent. The least-squares combination of them all is the best linear
unbiased estimate (Hay, Rastogi, Miklau and Suciu 2010, PVLDB 3(1), section 4.2; Honaker 2015 for other
numbers of children). Its running sum is then moved to the nearest rising one.

On the flights fleet the hierarchy was measured against flat prefix sums and the square-root
factorisation of the prefix matrix (Fichtenberger, Henzinger and Upadhyay 2023); ``docs/statistics.md``
has the table. With four children and no root it is as good as either up to some hundred bins.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from pocketfl_server.analytics.estimators.intervals import NORMAL_QUANTILE, Vector
from pocketfl_server.analytics.estimators.isotonic import nearest_rising

_DRAWS: Final = 400
_SEED: Final = 20_825


@dataclass(frozen=True, kw_only=True)
class Distribution:
    """A distribution function at the query's edges.

    Attributes
    ----------
    edges : ndarray of float64, shape (bins + 1,)
        Of the finest bins.
    below : ndarray of float64, shape (bins + 1,)
        Share of the weight that lies below each edge: rising from 0 to 1.
    low, high : ndarray of float64, shape (bins + 1,)
        95 % interval of each share by itself.
    total : float
        Weight in all: with the unit ``device``, the number of devices that have the value.
    """

    edges: Vector
    below: Vector
    low: Vector
    high: Vector
    total: float

    def quantile(self, share: float) -> float:
        """Return the value below which a share of the weight lies.

        Within a bin the weight is taken to lie evenly.

        Raises
        ------
        ValueError
            If the share is not between 0 and 1.
        """
        return self._invert(self.below, share)

    def quantile_interval(self, share: float) -> tuple[float, float]:
        """Return the 95 % interval of a quantile: where the band of the shares crosses the share."""
        return self._invert(self.high, share), self._invert(self.low, share)

    def _invert(self, below: Vector, share: float) -> float:
        if not 0 <= share <= 1:
            raise ValueError(f"a share is between 0 and 1, not {share}")
        # The band's ends are rising too, so that searching finds the first crossing.
        rising = np.maximum.accumulate(below)
        place = int(np.searchsorted(rising, share, side="left"))
        if place == 0:
            # The last edge that nothing lies below.
            place = max(int(np.searchsorted(rising, share, side="right")) - 1, 0)
            return float(self.edges[place])
        if place == len(rising):
            return float(self.edges[-1])
        part = (share - rising[place - 1]) / (rising[place] - rising[place - 1])
        return float(self.edges[place - 1] + part * (self.edges[place] - self.edges[place - 1]))


def estimate_distribution(
    values: Vector, *, branching: int, levels: int, low: float, high: float, noise: float
) -> Distribution:
    """Estimate a distribution function.

    Parameters
    ----------
    values : ndarray of float64, shape (branching + ... + branching**levels,)
        The noised hierarchy, level by level from the coarsest.
    branching, levels : int
        Its shape.
    low, high : float
        The query's range; what lies beyond is in the outer bins.
    noise : float
        Standard deviation of each coordinate's noise.

    Returns
    -------
    Distribution
        With NaN for every share if noise hides that anything was counted at all.

    Raises
    ------
    ValueError
        If the values do not make such a hierarchy.
    """
    sizes = [branching**level for level in range(1, levels + 1)]
    if values.shape != (sum(sizes),):
        raise ValueError(f"shape {values.shape}; the hierarchy has {sum(sizes)} coordinates")
    bins = sizes[-1]
    edges = low + (high - low) * np.arange(bins + 1) / bins
    cuts = np.cumsum(sizes)[:-1]
    leaves = combine_levels(np.split(np.asarray(values, np.float64), cuts), branching=branching)
    # The same combination of noise alone: how far each running sum may be off.
    pure = np.random.default_rng(_SEED).standard_normal((_DRAWS, sum(sizes))) * noise
    errors = np.cumsum(combine_levels(np.split(pure, cuts, axis=-1), branching=branching), axis=-1)
    running = np.clip(nearest_rising(np.cumsum(leaves)), 0, None)
    total = float(running[-1])
    if total <= 4 * float(errors[:, -1].std()):
        unknown = np.full(bins + 1, np.nan)
        return Distribution(edges=edges, below=unknown, low=unknown, high=unknown, total=total)
    below = np.concatenate([[0.0], running / total])
    # Delta method for the ratio of a running sum and the total.
    spread = (errors - below[1:] * errors[:, -1:]).std(axis=0) / total
    reach = np.concatenate([[0.0], NORMAL_QUANTILE * spread])
    return Distribution(
        edges=edges,
        below=below,
        low=np.clip(below - reach, 0, 1),
        high=np.clip(below + reach, 0, 1),
        total=total,
    )


def worst_share_noise(*, branching: int, levels: int) -> float:
    """Return the noise of the least certain share of an evenly spread weight of 1.

    In standard deviations of one coordinate's noise. The last share is always 1, so it is some edge in
    the middle.
    """
    sizes = [branching**level for level in range(1, levels + 1)]
    pure = np.random.default_rng(_SEED).standard_normal((_DRAWS, sum(sizes)))
    cuts = np.cumsum(sizes)[:-1]
    running = np.cumsum(combine_levels(np.split(pure, cuts, axis=-1), branching=branching), axis=-1)
    even = np.arange(1, sizes[-1] + 1) / sizes[-1]
    return float((running - even * running[:, -1:]).std(axis=0).max())


def combine_levels(levels: Sequence[Vector], *, branching: int) -> Vector:
    """Return the finest counts that fit all levels best.

    Parameters
    ----------
    levels : sequence of ndarray of float64, shape (..., branching**level)
        From the coarsest; all with independent noise of the same size.
    branching : int
        Children of a node.

    Returns
    -------
    ndarray of float64, shape (..., bins)
        The least-squares estimate. Upward, a node's own count and the sum of its children are averaged
        with the inverse of their variances as weights; downward, what a parent knows better than the
        sum of its children is spread over them evenly, because all of them are equally uncertain.
    """
    combined = [levels[-1]]
    variance = 1.0
    for own in reversed(levels[:-1]):
        children = _sum_children(combined[-1], branching)
        of_children = branching * variance
        weight = of_children / (1.0 + of_children)
        combined.append(weight * own + (1 - weight) * children)
        variance = weight
    final = combined.pop()
    while combined:
        below = combined.pop()
        gap = (final - _sum_children(below, branching)) / branching
        final = below + np.repeat(gap, branching, axis=-1)
    return final


def _sum_children(values: Vector, branching: int) -> Vector:
    shape = (*values.shape[:-1], values.shape[-1] // branching, branching)
    summed: Vector = values.reshape(shape).sum(axis=-1)
    return summed
