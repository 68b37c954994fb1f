"""From a release to statistics: each query's values, read by the estimator that fits its kind."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from pocketfl.features.bundle import Evidence, TransformBundle
from pocketfl.features.transforms import Scale, Standardise
from pocketfl.queries import Moments, Quantiles, QuerySet, ScoreHistogram
from pocketfl_server.analytics.estimators import (
    Distribution,
    Estimate,
    MomentEstimates,
    ScoreMetrics,
    estimate_distribution,
    estimate_metrics,
    estimate_moments,
    estimate_shares,
)
from pocketfl_server.analytics.normalisation import (
    scale_between_quantiles,
    standardise_by_moments,
)
from pocketfl_server.analytics.records import QueryResult, TaskResult

_NO_NOISE = 1e-9
"""Stands in for the noise of a release without differential privacy: intervals shrink to points."""


def read_shares(result: QueryResult) -> tuple[Estimate, ...]:
    """Return the share of each class or interval of a ``histogram`` query."""
    _check_kind(result, "histogram")
    return estimate_shares(_values(result), noise=_noise(result))


def read_distribution(query: Quantiles, result: QueryResult) -> Distribution:
    """Return the distribution function behind a ``quantiles`` query."""
    _check_kind(result, "quantiles")
    return estimate_distribution(
        _values(result),
        branching=query.branching,
        levels=query.levels,
        low=query.low,
        high=query.high,
        noise=_noise(result),
    )


def read_moments(query: Moments, result: QueryResult) -> MomentEstimates:
    """Return mean and deviation behind a ``moments`` query."""
    _check_kind(result, "moments")
    return estimate_moments(_values(result), noise=_noise(result), low=query.low, high=query.high)


def read_metrics(query: ScoreHistogram, result: QueryResult) -> ScoreMetrics:
    """Return the metrics behind a ``score_histogram`` query of two classes.

    Raises
    ------
    ValueError
        If the query has other classes, or its scores are no probabilities.
    """
    _check_kind(result, "score_histogram")
    if query.classes != 2 or query.low < 0 or query.high > 1:
        raise ValueError(
            f"query {query.name!r}: metrics need two classes and scores from 0 to 1, such as those of "
            "activation 'sigmoid'"
        )
    values, noise = _values(result), _noise(result)
    limit = query.log_loss_limit
    return estimate_metrics(
        values[: 2 * query.bins],
        noise=noise,
        low=query.low,
        high=query.high,
        loss_sum=None if limit is None else float(values[-1]) * limit,
        loss_noise=0.0 if limit is None else noise * limit,
    )


def learn_bundle(
    result: TaskResult,
    queries: QuerySet,
    *,
    name: str,
    version: str,
    fields: Iterable[str] | None = None,
) -> TransformBundle:
    """Make a transform bundle of what a release says about numeric fields.

    Parameters
    ----------
    result : TaskResult
        The release.
    queries : QuerySet
        Those of its plan.
    name, version : str
        Of the bundle.
    fields : iterable of str, optional
        Names of the queries to use; all of kind ``quantiles`` and ``moments`` by default.

    Returns
    -------
    TransformBundle
        ``scale`` between the 1 % and 99 % quantile for a ``quantiles`` query, ``standardise`` for a
        ``moments`` query; to be signed by the modeller (:meth:`TransformBundle.sign`).

    Raises
    ------
    KeyError
        If there is no such query.
    ValueError
        If noise hides one of them, or there is none.
    """
    chosen = (
        [query for query in queries.queries if isinstance(query, Quantiles | Moments)]
        if fields is None
        else [queries.find(field) for field in fields]
    )
    transforms: list[Scale | Standardise] = []
    for query in chosen:
        found = result.find(query.name)
        if isinstance(query, Quantiles):
            distribution = read_distribution(query, found)
            transforms.append(
                scale_between_quantiles(distribution, field=query.field, source=query.source)
            )
        elif isinstance(query, Moments):
            moments = read_moments(query, found)
            transforms.append(
                standardise_by_moments(moments, field=query.field, source=query.source)
            )
        else:
            raise ValueError(  # noqa: TRY004 - a query is a value, and this one does not fit
                f"query {query.name!r} of kind {query.kind!r} says nothing of a range"
            )
    evidence = []
    if result.epsilon is not None and result.delta is not None:
        evidence.append(
            Evidence(
                plan_sha256=result.plan_sha256,
                reports=result.reports,
                epsilon=result.epsilon,
                delta=result.delta,
            )
        )
    return TransformBundle(
        name=name, version=version, transforms=tuple(transforms), evidence=tuple(evidence)
    )


def _check_kind(result: QueryResult, kind: str) -> None:
    if result.kind != kind:
        raise ValueError(f"query {result.name!r} is of kind {result.kind!r}, not {kind!r}")


def _values(result: QueryResult) -> NDArray[np.float64]:
    return np.array(result.values, dtype=np.float64)


def _noise(result: QueryResult) -> float:
    return max(result.noise_std, _NO_NOISE)
