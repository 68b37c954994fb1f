"""Estimators are exact without noise, and their 95 % intervals cover what they should with it.

A coverage test counts how often an interval covers the value that the same sum has without noise. Were
the coverage 95 % exactly, each of these tests would fail falsely about once in a million runs; they are
seeded, so what passes once goes on passing.
"""

import math

import numpy as np
import pytest
from scipy.stats import binom
from sklearn.metrics import average_precision_score, log_loss, roc_auc_score

from pocketfl_server.analytics.estimators import (
    estimate_counts,
    estimate_distribution,
    estimate_metrics,
    estimate_moments,
    estimate_shares,
)
from pocketfl_server.analytics.estimators.isotonic import nearest_rising
from pocketfl_server.analytics.estimators.quantiles import combine_levels

RUNS = 300
FEWEST = int(binom.ppf(1e-6, RUNS, 0.95))
"""Fewest of the runs whose interval covers: 88 % of them."""


def noise_of(seed, shape, scale):
    return np.random.default_rng(seed).normal(0, scale, shape)


def hierarchy(leaves, branching, levels):
    parts = [leaves.reshape(branching**level, -1).sum(axis=1) for level in range(1, levels + 1)]
    return np.concatenate(parts)


def scores(seed, count=20_000):
    """Return calibrated scores and targets of which about a third are positive."""
    rng = np.random.default_rng(seed)
    score = rng.beta(1.2, 2.5, count)
    return score, rng.random(count) < score


def histogram(score, target, bins):
    return np.concatenate([np.histogram(score[target == c], bins, (0, 1))[0] for c in (0, 1)]) * 1.0


@pytest.mark.parametrize(("branching", "levels"), [(2, 4), (4, 3), (16, 2), (5, 1)])
def test_the_hierarchy_is_combined_by_least_squares(branching, levels):
    """The two passes give what the pseudo-inverse of the hierarchy's matrix gives."""
    bins = branching**levels
    matrix = np.stack([hierarchy(row, branching, levels) for row in np.eye(bins)], axis=1)
    values = noise_of(1, len(matrix), 1.0)
    cuts = np.cumsum([branching**level for level in range(1, levels)])
    found = combine_levels(np.split(values, cuts), branching=branching)
    np.testing.assert_allclose(found, np.linalg.pinv(matrix) @ values, atol=1e-9)


def test_the_nearest_rising_sequence_is_the_projection():
    """Pooling gives what an independent implementation of isotonic regression gives."""
    from sklearn.isotonic import isotonic_regression

    values = noise_of(2, 200, 1.0) + np.linspace(0, 1, 200)
    np.testing.assert_allclose(nearest_rising(values), isotonic_regression(values), atol=1e-12)


def test_quantiles_without_noise_are_exact():
    """With weight at the middle of bins, shares at edges and quantiles are those of the data."""
    leaves = np.arange(64.0)
    found = estimate_distribution(
        hierarchy(leaves, 4, 3), branching=4, levels=3, low=0, high=64, noise=1e-9
    )
    np.testing.assert_allclose(found.below[1:], np.cumsum(leaves) / leaves.sum(), atol=1e-9)
    for share in (0.01, 0.25, 0.5, 0.99):
        value = found.quantile(share)
        assert np.interp(value, found.edges, found.below) == pytest.approx(share)


def test_intervals_of_shares_below_an_edge_cover():
    """Each edge by itself is covered as often as it should be, the worst of them included."""
    leaves = np.random.default_rng(3).gamma(2, 40, 64)
    exact, truth = np.cumsum(leaves) / leaves.sum(), hierarchy(leaves, 4, 3)
    covered = np.zeros(64)
    for seed in range(RUNS):
        values = truth + noise_of(seed, truth.shape, 12.0)
        found = estimate_distribution(values, branching=4, levels=3, low=0, high=1, noise=12.0)
        covered += (found.low[1:] <= exact + 1e-12) & (exact - 1e-12 <= found.high[1:])
    assert covered.min() >= FEWEST


def test_counts_and_shares_cover():
    """Every class is covered, a rare one too."""
    truth = np.array([900.0, 90.0, 10.0])
    of_counts, of_shares = np.zeros(3), np.zeros(3)
    for seed in range(RUNS):
        values = truth + noise_of(seed, 3, 4.0)
        for place in range(3):
            count = estimate_counts(values, noise=4.0)[place]
            share = estimate_shares(values, noise=4.0)[place]
            of_counts[place] += count.low <= truth[place] <= count.high
            of_shares[place] += share.low <= truth[place] / 1000 <= share.high
    assert of_counts.min() >= FEWEST
    assert of_shares.min() >= FEWEST


def test_moments_cover_and_come_back_in_their_own_units():
    """Mean and deviation are covered; without noise they are those of the data."""
    data = np.random.default_rng(4).normal(30, 5, 2000).clip(0, 100)
    u = data / 50 - 1
    truth = np.array([len(u), u.sum(), (u**2).sum()])
    exact = estimate_moments(truth, noise=1e-9, low=0, high=100)
    assert exact.mean.value == pytest.approx(data.mean())
    assert exact.deviation.value == pytest.approx(data.std())
    covered = [0, 0]
    for seed in range(RUNS):
        found = estimate_moments(truth + noise_of(seed, 3, 5.0), noise=5.0, low=0, high=100)
        covered[0] += found.mean.low <= data.mean() <= found.mean.high
        covered[1] += found.deviation.low <= data.std() <= found.deviation.high
    assert min(covered) >= FEWEST


def test_metrics_without_noise_are_those_of_the_scores():
    """With fine bins, areas, log loss and entropy are what scikit-learn makes of the scores."""
    score, target = scores(5)
    loss = -np.log(np.where(target, score, 1 - score))
    found = estimate_metrics(histogram(score, target, 256), noise=1e-9, loss_sum=loss.sum())
    exact = log_loss(target, score)
    prior = target.mean()
    assert found.roc_auc.value == pytest.approx(roc_auc_score(target, score), abs=1e-4)
    assert found.pr_auc.value == pytest.approx(average_precision_score(target, score), abs=2e-3)
    assert found.log_loss.value == pytest.approx(exact, abs=1e-9)
    assert found.normalised_entropy.value == pytest.approx(
        exact / log_loss([0, 1], [prior, prior], sample_weight=[1 - prior, prior])
    )
    binned = estimate_metrics(histogram(score, target, 256), noise=1e-9)
    assert binned.log_loss.value == pytest.approx(exact, abs=2e-3)


def test_intervals_of_metrics_cover():
    """Every metric and every point of the calibration curve covers its value without noise.

    The points are chosen by the released sum itself, so they are judged together: were each covered
    with 95 %, all of them fall below 92 % less than once in a million runs.
    """
    score, target = scores(6)
    loss = -np.log(np.where(target, score, 1 - score)).sum()
    truth, noise = histogram(score, target, 32), 40.0
    names = ("weight", "positive_share", "roc_auc", "pr_auc", "log_loss", "normalised_entropy")
    exact = estimate_metrics(truth, noise=1e-9, loss_sum=loss)
    covered, points = dict.fromkeys(names, 0), []
    for seed in range(RUNS):
        pure = noise_of(seed, 65, noise)
        found = estimate_metrics(
            truth + pure[:64], noise=noise, loss_sum=loss + pure[64], loss_noise=noise
        )
        for name in names:
            made = getattr(found, name)
            covered[name] += made.low <= getattr(exact, name).value <= made.high
        for point in found.calibration:
            first, last = round(point.low * 32), round(point.high * 32)
            negative, positive = truth[first:last].sum(), truth[32 + first : 32 + last].sum()
            share = positive / (negative + positive)
            points.append(point.observed.low <= share <= point.observed.high)
    assert min(covered.values()) >= FEWEST, covered
    assert np.mean(points) >= 0.92


def test_noise_that_hides_a_class_makes_no_number():
    """Where nothing stands out of the noise, an estimator says so instead of dividing by noise."""
    nothing = noise_of(7, 64, 1.0)
    assert not estimate_metrics(nothing, noise=1.0).roc_auc.is_known
    assert estimate_metrics(nothing, noise=1.0).calibration == ()
    assert not estimate_shares(noise_of(8, 3, 1.0), noise=1.0)[0].is_known
    levels = noise_of(9, 20, 1.0)
    found = estimate_distribution(levels, branching=4, levels=2, low=0, high=1, noise=1.0)
    assert math.isnan(found.below[3])
