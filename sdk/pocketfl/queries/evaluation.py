"""A device's answer to a plan's queries: one vector whose norm is bounded whatever was stored.

Each example adds a vector that is bounded by its query's kind. A mean of such vectors obeys the same
bound, and a sum of at most ``m`` of them ``m`` times that. Divided by the bound and multiplied with the
query's share, an answer has a norm of at most the share, and all answers together of at most 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pocketfl.queries.query_set import QuerySet
from pocketfl.queries.reading import QueryColumns
from pocketfl.queries.spec import (
    Count,
    ExampleQuery,
    Filter,
    Funnel,
    FunnelEvent,
    Histogram,
    Moments,
    Quantiles,
    ScoreHistogram,
    Sum,
)
from pocketfl.store.selection import choose

Vector = NDArray[np.float64]
Mask = NDArray[np.bool_]
Codes = NDArray[np.int64]

_STREAM: Final = 0x71756572
"""Keeps the choices made for queries apart from others made with the same seed ("quer")."""


def evaluate_queries(
    queries: QuerySet,
    columns: QueryColumns | None,
    *,
    seed: int,
    events: Mapping[FunnelEvent, int] | None = None,
) -> Vector:
    """Answer a plan's queries.

    Parameters
    ----------
    queries : QuerySet
        What is asked.
    columns : QueryColumns or None
        The examples that count; None where there are none.
    seed : int
        The session's own; decides which examples and events count where there are too many.
    events : mapping of FunnelEvent to int, optional
        The log of the day that is reported.

    Returns
    -------
    ndarray of float64, shape (queries.length,)
        In units of the report's norm, which is at most 1; zeros where there is nothing to tell.
    """
    answer = np.zeros(queries.length)
    for number, (query, place) in enumerate(
        zip(queries.queries, queries.slices.values(), strict=True)
    ):
        draws = (seed, _STREAM, number)
        if isinstance(query, Funnel):
            natural = _log_of_day(query, events or {}, seed=draws)
        elif columns is None or columns.rows == 0:
            continue
        else:
            natural = _bounded(_examples(query, columns, seed=draws), norm=query.norm)
        answer[place] = natural / query.scale
    return answer


def _bounded(natural: Vector, *, norm: float) -> Vector:
    """Scale an answer down to the norm that it may have, all of it alike."""
    # Divided by the largest first, so that the square of a huge number stays finite.
    peak = float(np.abs(natural).max())
    if peak == 0.0:
        return natural
    length = peak * float(np.linalg.norm(natural / peak))
    return natural * (norm / length) if length > norm else natural


def _examples(query: ExampleQuery, columns: QueryColumns, *, seed: tuple[int, ...]) -> Vector:
    """Return the mean or the bounded sum of what the examples add, in natural units."""
    counts = np.ones(columns.rows, dtype=bool)
    for condition in query.where:
        counts &= _passes(condition, columns)
    numbers: Vector | None = None
    codes: Codes | None = None
    losses: Vector | None = None
    match query:
        case Count():
            pass
        case Sum() | Moments() | Quantiles():
            numbers = columns.numbers(query.source, query.field)
            counts &= ~np.isnan(numbers)
        case Histogram():
            codes = _categories(query, columns)
            counts &= codes >= 0
        case ScoreHistogram():
            scores = _scores(query, columns)
            codes = _classes_and_bins(query, columns, scores)
            losses = _log_losses(query, columns, scores)
            counts &= codes >= 0
    rows = np.flatnonzero(counts)
    if len(rows) == 0:
        return np.zeros(query.length)
    if query.max_examples is not None:
        rows = rows[choose(len(rows), limit=query.max_examples, seed=seed)]
    weight = 1.0 if query.unit == "example" else 1.0 / len(rows)
    if codes is not None:
        counted = np.bincount(codes[rows], minlength=query.length).astype(np.float64)
        if losses is not None:
            counted[-1] = losses[rows].sum()
        return counted * weight
    if numbers is None:
        return np.array([weight * len(rows)])
    return _sum_numbers(query, numbers[rows]) * weight


def _sum_numbers(query: ExampleQuery, numbers: Vector) -> Vector:
    match query:
        case Sum():
            return np.array([np.clip(numbers, query.low, query.high).sum()])
        case Moments():
            half = (query.high - query.low) / 2
            middle = query.low + half
            u = np.clip((np.clip(numbers, query.low, query.high) - middle) / half, -1.0, 1.0)
            return np.array([(u**power).sum() for power in range(query.order + 1)])
        case Quantiles():
            finest = _bins(numbers, low=query.low, high=query.high, bins=query.bins)
            levels = [
                np.bincount(
                    finest // query.branching ** (query.levels - level),
                    minlength=query.branching**level,
                )
                for level in range(1, query.levels + 1)
            ]
            return np.concatenate(levels).astype(np.float64)
        case _:
            raise TypeError(f"{type(query).__name__} is no query over numbers")


def _bins(numbers: Vector, *, low: float, high: float, bins: int) -> Codes:
    clamped = np.clip(numbers, low, high)
    places = ((clamped - low) / (high - low) * bins).astype(np.int64)
    # The upper end belongs to the last bin.
    return np.minimum(places, bins - 1)


def _categories(query: Histogram, columns: QueryColumns) -> Codes:
    """Return the coordinate of each example, -1 for one that is left out."""
    other = query.length - 1 if query.other else -1
    if query.categories is not None:
        code_of = {category: place for place, category in enumerate(query.categories)}
        values = columns.values(query.source, query.field)
        return np.array([code_of.get(value, other) for value in values], dtype=np.int64)
    numbers = columns.numbers(query.source, query.field)
    side = "right" if query.closed == "left" else "left"
    codes = np.searchsorted(np.array(query.boundaries), numbers, side=side)  # type: ignore[call-overload]
    return np.where(np.isnan(numbers), other, codes).astype(np.int64)


def _scores(query: ScoreHistogram, columns: QueryColumns) -> Vector:
    """Return the score of each example, NaN where the model has none."""
    logits = columns.outputs[query.output].reshape(columns.rows, -1).astype(np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        if query.activation == "softmax":
            powers = np.exp(logits - logits.max(axis=1, keepdims=True))
            return np.asarray((powers / powers.sum(axis=1, keepdims=True))[:, query.index])
        scores = logits[:, query.index]
        return 1.0 / (1.0 + np.exp(-scores)) if query.activation == "sigmoid" else scores


def _targets(columns: QueryColumns) -> Vector:
    if columns.target is None:
        raise ValueError("a score histogram needs the target of every example")
    return columns.target.reshape(columns.rows, -1)[:, 0].astype(np.float64)


def _classes_and_bins(query: ScoreHistogram, columns: QueryColumns, scores: Vector) -> Codes:
    """Return the coordinate of each example, -1 for one that is left out."""
    target = _targets(columns)
    usable = ~np.isnan(scores)
    usable &= (target >= 0) & (target < query.classes) & (target == np.floor(target))
    bins = _bins(np.where(usable, scores, 0.0), low=query.low, high=query.high, bins=query.bins)
    return np.where(usable, np.where(usable, target, 0) * query.bins + bins, -1).astype(np.int64)


def _log_losses(query: ScoreHistogram, columns: QueryColumns, scores: Vector) -> Vector | None:
    """Return the log loss of each example as a part of the largest that counts."""
    if query.log_loss_limit is None:
        return None
    likelihood = np.where(_targets(columns) == 1, scores, 1.0 - scores)
    with np.errstate(divide="ignore", invalid="ignore"):
        losses = -np.log(np.clip(likelihood, 0.0, 1.0)) / query.log_loss_limit
    return np.asarray(np.clip(losses, 0.0, 1.0))


def _passes(condition: Filter, columns: QueryColumns) -> Mask:
    if condition.values is not None:
        allowed = set(condition.values)
        values = columns.values(condition.source, condition.field)
        return np.array([value in allowed for value in values], dtype=bool)
    numbers = columns.numbers(condition.source, condition.field)
    low = -np.inf if condition.low is None else condition.low
    high = np.inf if condition.high is None else condition.high
    # NaN, which stands for a missing value, passes no comparison.
    return (numbers >= low) & (numbers <= high)


def _log_of_day(
    query: Funnel, events: Mapping[FunnelEvent, int], *, seed: tuple[int, ...]
) -> Vector:
    counts = np.array(
        [min(max(events.get(event, 0), 0), query.max_per_event) for event in query.events],
        dtype=np.int64,
    )
    happened = np.repeat(np.arange(query.length), counts)
    chosen = happened[choose(len(happened), limit=query.max_events, seed=seed)]
    return np.bincount(chosen, minlength=query.length).astype(np.float64)
