"""How good a binary classifier is, from a noised histogram of its scores per class.

Within a bin the scores of both classes are taken to lie evenly, which is what makes an area out of a
histogram (Cormode and Markov 2023, PVLDB 16(11), section 5; Xu and Cormode 2025, arXiv 2510.04979).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np

from pocketfl_server.analytics.estimators.intervals import Estimate, Vector, propagate
from pocketfl_server.analytics.estimators.isotonic import between_bounds

MIN_SIGNAL: Final = 12.0
"""A point of the calibration curve holds at least this many standard deviations of its noise."""
_SMALLEST: Final = 1e-12


@dataclass(frozen=True, kw_only=True)
class CalibrationPoint:
    """What became of the examples that the model scored alike.

    Attributes
    ----------
    low, high : float
        Range of the scores.
    mean_score : float
        Their mean, to the width of a bin.
    observed : Estimate
        Share of them that was positive.
    """

    low: float
    high: float
    mean_score: float
    observed: Estimate


@dataclass(frozen=True, kw_only=True)
class ScoreMetrics:
    """Quality of a binary classifier.

    Attributes
    ----------
    weight : Estimate
        Weight of all examples, in the query's unit.
    positive_share : Estimate
        Part of it that is positive.
    roc_auc, pr_auc : Estimate
        Area under the ROC curve and under the precision-recall curve.
    log_loss : Estimate
        Mean of ``-log p(true class)`` in nats.
    normalised_entropy : Estimate
        Log loss over that of a model that always says ``positive_share``; below 1 is better than that
        (He et al. 2014, Practical Lessons from Predicting Clicks on Ads at Facebook).
    calibration : tuple of CalibrationPoint
        In the order of their scores; neighbouring bins share a point until it stands out of the noise.
    """

    weight: Estimate
    positive_share: Estimate
    roc_auc: Estimate
    pr_auc: Estimate
    log_loss: Estimate
    normalised_entropy: Estimate
    calibration: tuple[CalibrationPoint, ...]


def estimate_metrics(
    histogram: Vector,
    *,
    noise: float,
    low: float = 0.0,
    high: float = 1.0,
    loss_sum: float | None = None,
    loss_noise: float = 0.0,
) -> ScoreMetrics:
    """Estimate all metrics.

    Parameters
    ----------
    histogram : ndarray of float64, shape (2 * bins,)
        Noised weight of the negative, then of the positive examples, by rising score.
    noise : float
        Standard deviation of each coordinate's noise.
    low, high : float
        Range of the scores, which are probabilities.
    loss_sum : float, optional
        Noised sum of log losses over the same examples. Without it the log loss is that of the bins'
        middles, with more noise and the error of half a bin.
    loss_noise : float
        Standard deviation of its noise.

    Returns
    -------
    ScoreMetrics
        Unknown where noise hides a class.

    Raises
    ------
    ValueError
        If the histogram has no two classes of two bins.
    """
    if len(histogram) < 4 or len(histogram) % 2 or histogram.ndim != 1:
        raise ValueError(f"{len(histogram)} coordinates do not make two classes of at least 2 bins")
    bins = len(histogram) // 2
    middles = low + (high - low) * (np.arange(bins) + 0.5) / bins

    def statistic(vectors: Vector) -> Vector:
        negative, positive = vectors[..., :bins], vectors[..., bins : 2 * bins]
        hidden = 4 * noise * math.sqrt(bins)
        alls, positives = _weights(negative, positive, hidden=hidden)
        share = positives / alls
        if loss_sum is None:
            loss = _binned_log_loss(negative, positive, middles) / alls
        else:
            loss = vectors[..., -1] / alls
        entropy = _entropy(share)
        parts = [alls, share, _roc_auc(negative, positive), _pr_auc(negative, positive)]
        found = np.stack([*parts, loss, loss / entropy], axis=-1)
        return np.where(np.isfinite(alls)[..., None], found, np.nan)

    values = np.asarray(histogram, np.float64)
    deviations = np.full(2 * bins, float(noise))
    if loss_sum is not None:
        values = np.append(values, loss_sum)
        deviations = np.append(deviations, loss_noise)
    weight, share, loss, normalised = (
        propagate(
            lambda vectors, place=place: statistic(vectors)[..., [place]],  # type: ignore[misc]
            values,
            noise=deviations,
            low=0.0,
            high=1.0 if place == 1 else math.inf,
        )[0]
        for place in (0, 1, 4, 5)
    )
    areas = propagate(
        lambda vectors: statistic(vectors)[..., 2:4], values, noise=deviations, low=0.0, high=1.0
    )
    return ScoreMetrics(
        weight=weight,
        positive_share=share,
        roc_auc=areas[0],
        pr_auc=areas[1],
        log_loss=loss,
        normalised_entropy=normalised,
        calibration=_calibration(values[: 2 * bins], middles, noise=noise),
    )


def _weights(negative: Vector, positive: Vector, *, hidden: float) -> tuple[Vector, Vector]:
    """Return the weight of all and of the positives; NaN where a class does not stand out."""
    of_negatives, of_positives = negative.sum(axis=-1), positive.sum(axis=-1)
    visible = (of_negatives > hidden) & (of_positives > hidden)
    alls = np.where(visible, of_negatives + of_positives, np.nan)
    return alls, np.where(visible, of_positives, np.nan)


def _roc_auc(negative: Vector, positive: Vector) -> Vector:
    """Return P(score of a positive > score of a negative), ties counting one half.

    The Mann-Whitney form of the area (Hanley and McNeil 1982, Radiology 143(1)). It is linear in
    either class, so independent noise leaves its numerator without bias.
    """
    below = np.cumsum(negative, axis=-1) - negative / 2
    with np.errstate(divide="ignore", invalid="ignore"):
        area: Vector = (positive * below).sum(axis=-1) / (
            positive.sum(axis=-1) * negative.sum(axis=-1)
        )
    return area


def _pr_auc(negative: Vector, positive: Vector) -> Vector:
    """Return the integral of precision over recall, exact for scores that lie evenly in each bin.

    With ``a`` true positives among ``s`` examples above a bin, and ``p`` among ``m`` in it, precision
    is ``(a + p t) / (s + m t)`` after a part ``t`` of the bin (Davis and Goadrich 2006, ICML); its
    integral is ``p / m + (a - p s / m) log(1 + m / s) / m``.
    """
    hits = between_bounds(np.cumsum(positive[..., ::-1], axis=-1))
    seen = hits + between_bounds(np.cumsum(negative[..., ::-1], axis=-1))
    p, m = np.diff(hits, prepend=0.0, axis=-1), np.diff(seen, prepend=0.0, axis=-1)
    a, s = hits - p, seen - m
    safe = np.maximum(m, _SMALLEST)
    with np.errstate(divide="ignore", invalid="ignore"):
        inside = np.where(
            s > _SMALLEST,
            p / safe + (a - p * s / safe) * np.log1p(safe / np.maximum(s, _SMALLEST)) / safe,
            p / safe,
        )
        # An empty bin adds no recall.
        area: Vector = (np.where(m > _SMALLEST, inside * p, 0.0)).sum(axis=-1) / hits[..., -1]
    return area


def _binned_log_loss(negative: Vector, positive: Vector, middles: Vector) -> Vector:
    scores = np.clip(middles, 1e-6, 1 - 1e-6)
    return -(positive @ np.log(scores)) - negative @ np.log1p(-scores)


def _entropy(share: Vector) -> Vector:
    safe = np.clip(share, 1e-9, 1 - 1e-9)
    entropy: Vector = -safe * np.log(safe) - (1 - safe) * np.log1p(-safe)
    return entropy


def _calibration(
    histogram: Vector, middles: Vector, *, noise: float
) -> tuple[CalibrationPoint, ...]:
    bins = len(middles)
    negative, positive = histogram[:bins], histogram[bins:]
    width = middles[1] - middles[0]
    points = []
    for start, stop in _groups(negative + positive, noise=noise * math.sqrt(2)):
        total = np.array([negative[start:stop].sum(), positive[start:stop].sum()])

        def share(vectors: Vector) -> Vector:
            with np.errstate(divide="ignore", invalid="ignore"):
                made: Vector = (vectors[..., 1] / vectors.sum(axis=-1))[..., None]
            return made

        weights = np.clip(negative[start:stop] + positive[start:stop], 0, None)
        (observed,) = propagate(
            share, total, noise=np.full(2, noise * math.sqrt(stop - start)), low=0.0, high=1.0
        )
        points.append(
            CalibrationPoint(
                low=float(middles[start] - width / 2),
                high=float(middles[stop - 1] + width / 2),
                mean_score=float(weights @ middles[start:stop] / weights.sum()),
                observed=observed,
            )
        )
    return tuple(points)


def _groups(weights: Vector, *, noise: float) -> list[tuple[int, int]]:
    """Cut neighbouring bins into groups that stand out of the noise; the last takes the rest."""
    groups: list[tuple[int, int]] = []
    start = 0
    for stop in range(1, len(weights) + 1):
        if weights[start:stop].sum() >= MIN_SIGNAL * noise * math.sqrt(stop - start):
            groups.append((start, stop))
            start = stop
    if start < len(weights) and groups:
        groups[-1] = (groups[-1][0], len(weights))
    return groups
