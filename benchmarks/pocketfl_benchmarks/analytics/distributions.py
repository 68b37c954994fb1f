"""Quantiles and class counts: error against the exact device-weighted shares."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pocketfl.queries import Quantiles, QuerySet
from pocketfl_benchmarks.analytics.fleet import (
    LATE_MINUTES,
    Aircraft,
    answer_columns,
    label_queries,
    late_shares,
    shares_below,
)
from pocketfl_benchmarks.analytics.release import ask
from pocketfl_benchmarks.flights.statistics import FEATURE_QUERIES
from pocketfl_server.analytics.estimators import (
    Distribution,
    estimate_distribution,
    estimate_shares,
)
from pocketfl_server.analytics.shares import share_evenly

DEVICES: Final = 2_700


@dataclass(frozen=True, kw_only=True)
class DistributionErrors:
    """Medians over the seeds.

    Attributes
    ----------
    alone : dict of str to float
        By feature: largest distance of the estimated from the exact distribution function at any of the
        query's edges, with the whole budget for this feature.
    together : dict of str to float
        The same, with one budget for all features.
    worst_together : float
        Of the largest of those distances among all features.
    class_share : dict of str to float
        By label: distance of the estimated from the exact share of late flights.
    """

    alone: dict[str, float]
    together: dict[str, float]
    worst_together: float
    class_share: dict[str, float]


def measure_distributions(
    aircraft: Sequence[Aircraft], *, seeds: int, noise_multiplier: float
) -> DistributionErrors:
    """Measure quantiles and class counts on devices drawn anew for every seed."""
    together = QuerySet(queries=share_evenly(FEATURE_QUERIES))
    answers = ask(together, answer_columns(aircraft, together))
    single = {}
    for query in FEATURE_QUERIES:
        queries = QuerySet(queries=(query,))
        single[query.name] = ask(queries, answer_columns(aircraft, queries))
    labels = ask(label_queries(), answer_columns(aircraft, label_queries()))
    exact = {query.name: shares_below(aircraft, query) for query in FEATURE_QUERIES}
    late = {f"late_{minutes:.0f}": late_shares(aircraft, minutes) for minutes in LATE_MINUTES}
    alone: dict[str, list[float]] = {query.name: [] for query in FEATURE_QUERIES}
    of_all: dict[str, list[float]] = {query.name: [] for query in FEATURE_QUERIES}
    of_labels: dict[str, list[float]] = {name: [] for name in late}
    for seed in range(seeds):
        chosen = draw_devices(len(aircraft), seed)
        truth = {name: np.nanmean(rows[chosen > 0], axis=0) for name, rows in exact.items()}
        released = answers.release(chosen, noise_multiplier=noise_multiplier)
        for query in FEATURE_QUERIES:
            name = query.name
            of_one = single[name].release(chosen, noise_multiplier=noise_multiplier)[name]
            noises = [
                made.noise(name, noise_multiplier=noise_multiplier)
                for made in (single[name], answers)
            ]
            for values, noise, errors in (
                (of_one, noises[0], alone[name]),
                (released[name], noises[1], of_all[name]),
            ):
                found = read_distribution(query, values, noise=noise)
                errors.append(float(np.abs(found.below[1:] - truth[name]).max()))
        counted = labels.release(chosen, noise_multiplier=noise_multiplier)
        for name, shares in late.items():
            noise = labels.noise(name, noise_multiplier=noise_multiplier)
            share = estimate_shares(counted[name], noise=noise)[1].value
            of_labels[name].append(abs(share - float(shares[chosen > 0].mean())))
    worst = np.max([of_all[name] for name in of_all], axis=0)
    return DistributionErrors(
        alone={name: float(np.median(errors)) for name, errors in alone.items()},
        together={name: float(np.median(errors)) for name, errors in of_all.items()},
        worst_together=float(np.median(worst)),
        class_share={name: float(np.median(errors)) for name, errors in of_labels.items()},
    )


def read_distribution(
    query: Quantiles, values: NDArray[np.float64], *, noise: float
) -> Distribution:
    """Estimate a query's distribution from its released vector."""
    return estimate_distribution(
        values,
        branching=query.branching,
        levels=query.levels,
        low=query.low,
        high=query.high,
        noise=noise,
    )


def draw_devices(devices: int, seed: int) -> NDArray[np.int64]:
    """Choose :data:`DEVICES` of the devices; returns 1 for each that takes part, else 0."""
    chosen = np.zeros(devices, dtype=np.int64)
    drawn = np.random.default_rng(seed).choice(devices, min(DEVICES, devices), replace=False)
    chosen[drawn] = 1
    return chosen
