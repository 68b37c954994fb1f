"""One release, as it happens between devices and trusted tier: the same code, without a network.

Every device's answer comes from the SDK's own evaluation, is rounded to the plan's grid by the SDK, and
the sum gets its noise from the trusted tier's own sampler. Only sealing and transport are left out.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pocketfl.clipping import clip_to_grid
from pocketfl.plan.aggregation import AggregationSpec
from pocketfl.queries import QuerySet
from pocketfl.queries.evaluation import evaluate_queries
from pocketfl.queries.reading import QueryColumns
from pocketfl_server.trusted.accounting import UNSAMPLED_ORDERS
from pocketfl_server.trusted.curves import release_event
from pocketfl_server.trusted.noise import add_noise

Grid = NDArray[np.int64]

EPSILON: Final = 1.0
DELTA: Final = 1e-5


@dataclass(frozen=True)
class Answers:
    """What every device answers to a set of queries, in grid units.

    Attributes
    ----------
    queries : QuerySet
        What was asked.
    grid : ndarray of int64, shape (devices, queries.length)
        One answer per row.
    """

    queries: QuerySet
    grid: Grid

    def release(self, weights: Grid, *, noise_multiplier: float) -> dict[str, NDArray[np.float64]]:
        """Sum, add noise, and return each query's vector in natural units.

        Parameters
        ----------
        weights : ndarray of int64, shape (devices,)
            How often each device counts: 0 or 1, or more where devices are resampled.
        noise_multiplier : float
            0 for the sum without noise.
        """
        spec = bounds(1)
        total = weights @ self.grid
        if noise_multiplier > 0:
            total = add_noise(total, noise_multiplier=noise_multiplier, norm_bound=spec.norm_bound)
        return self.queries.split(total * spec.grid_step)

    def noise(self, name: str, *, noise_multiplier: float) -> float:
        """Return the standard deviation of the noise on a query's coordinates, in natural units."""
        return noise_multiplier * self.queries.find(name).scale


def ask(queries: QuerySet, devices: Iterable[QueryColumns | None]) -> Answers:
    """Let every device answer; each chooses among its examples by its own number as seed."""
    spec = bounds(1)
    rows = [
        clip_to_grid(evaluate_queries(queries, columns, seed=number), spec)
        for number, columns in enumerate(devices)
    ]
    return Answers(queries, np.array(rows, dtype=np.int64))


def bounds(population: int) -> AggregationSpec:
    """Return the bounds of answers: a norm of 1, every device once."""
    return AggregationSpec(
        clip_norm=1.0, population=population, cohort_floor=1, max_rounds=1, max_participations=1
    )


def noise_multiplier(*, epsilon: float = EPSILON, delta: float = DELTA) -> float:
    """Return the least noise with which one release of all devices spends at most epsilon."""
    import dp_accounting
    from dp_accounting import rdp

    found = dp_accounting.calibrate_dp_mechanism(
        lambda: rdp.RdpAccountant(
            UNSAMPLED_ORDERS, dp_accounting.NeighboringRelation.REPLACE_SPECIAL
        ),
        lambda sigma: release_event(1.0, sigma),
        epsilon,
        delta,
        dp_accounting.ExplicitBracketInterval(0.1, 1000.0),
        tol=1e-4,
    )
    # Rounded upward: more noise is never less private.
    return math.ceil(float(found) * 1000) / 1000
