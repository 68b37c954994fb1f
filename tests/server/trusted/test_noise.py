"""The noise really is the discrete Gaussian that was paid for.

Statistical tests run on the cryptographic generator, so they cannot be seeded. Each has a false-alarm
rate of at most 1e-6 per comparison; the file makes fewer than 40, so a sound sampler fails it less
often than once in 25,000 runs. :func:`test_the_tests_can_fail` shows that they see a scale 10 % off.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from pocketfl_server.trusted import noise
from pocketfl_server.trusted.noise import SUM_BOUND, add_noise

FALSE_ALARM = 1e-6
SAMPLES = 20_000


def goodness_of_fit(samples: np.ndarray, sigma: float) -> float:
    """Chi-square p-value against the discrete Gaussian, with at least 20 expected per cell."""
    reach = int(12 * sigma)
    points = np.arange(-reach, reach + 1)
    weights = np.exp(-(points**2) / (2 * sigma**2))
    probability = weights / weights.sum()
    middle = points[probability * samples.size >= 20]
    low, high = middle.min(), middle.max()
    expected = probability[(points >= low) & (points <= high)]
    expected = np.concatenate(
        [[probability[points < low].sum()], expected, [probability[points > high].sum()]]
    )
    counts = np.bincount(np.clip(samples, low - 1, high + 1) - (low - 1), minlength=expected.size)
    return stats.chisquare(counts, expected * samples.size).pvalue


def draw(size: int, *, noise_multiplier: float, norm_bound: int) -> np.ndarray:
    return add_noise(
        np.zeros(size, dtype=np.int64), noise_multiplier=noise_multiplier, norm_bound=norm_bound
    )


@pytest.mark.parametrize(("noise_multiplier", "norm_bound"), [(0.5, 1), (0.01, 300), (1.5, 4)])
def test_every_value_has_its_probability(noise_multiplier, norm_bound):
    """Where the grid is coarse, each whole number appears as often as the formula says."""
    samples = draw(SAMPLES, noise_multiplier=noise_multiplier, norm_bound=norm_bound)
    assert goodness_of_fit(samples, noise_multiplier * norm_bound) > FALSE_ALARM


def test_scale_and_shape_at_the_default_bound():
    """Mean, variance and the whole distribution at noise multiplier 1 and bound 30,000."""
    sigma = 30_000.0
    samples = draw(SAMPLES, noise_multiplier=1.0, norm_bound=30_000)
    z = stats.norm.isf(FALSE_ALARM / 2)
    assert abs(samples.mean()) < z * sigma / math.sqrt(SAMPLES)
    square_sum = (samples.astype(float) ** 2).sum() / sigma**2
    tail = stats.chi2(SAMPLES)
    assert tail.ppf(FALSE_ALARM / 2) < square_sum < tail.isf(FALSE_ALARM / 2)
    # A step of 1 in 30,000 moves the distribution by 1e-5, far below what the test can see.
    assert stats.kstest(samples, stats.norm(0, sigma).cdf).pvalue > FALSE_ALARM


def test_coordinates_and_calls_are_independent():
    """No correlation between neighbours, at any lag up to 8, nor between two calls."""
    first, second = (draw(SAMPLES, noise_multiplier=1.0, norm_bound=1000) for _ in range(2))
    limit = stats.norm.isf(FALSE_ALARM / 2) / math.sqrt(SAMPLES - 8)
    assert abs(np.corrcoef(first, second)[0, 1]) < limit
    for lag in range(1, 9):
        assert abs(np.corrcoef(first[:-lag], first[lag:])[0, 1]) < limit
        assert abs(np.corrcoef(first[:-lag] ** 2, first[lag:] ** 2)[0, 1]) < 3 * limit
    assert not np.array_equal(first, second)


def test_the_tests_can_fail():
    """A scale 10 % off, or samples rounded from a shifted Gaussian, are found out."""
    wrong = draw(SAMPLES, noise_multiplier=3.3, norm_bound=1)
    assert goodness_of_fit(wrong, 3.0) < FALSE_ALARM
    generator = np.random.default_rng(0)
    shifted = np.floor(generator.normal(0, 3.0, SAMPLES)).astype(np.int64)
    assert goodness_of_fit(shifted, 3.0) < FALSE_ALARM


def test_noise_is_added_to_each_coordinate_across_chunks(monkeypatch):
    """Large vectors go through in pieces; every coordinate keeps its own sum."""
    monkeypatch.setattr(noise, "_CHUNK", 100)
    total = np.arange(1_050, dtype=np.int64) * 1_000_000
    noised = add_noise(total, noise_multiplier=10.0, norm_bound=20)
    assert np.abs(noised - total).max() < 20 * 10 * 20
    # Each coordinate stays as it was with probability 0.2 %; 50 of them do with less than 1e-30.
    assert np.count_nonzero(noised != total) > 1_000
    assert total[1] == 1_000_000


def test_the_sum_bound_is_exact_and_enforced():
    """At the bound, sums and noise stay within int64; above it nothing is noised."""
    total = np.array([SUM_BOUND, -SUM_BOUND], dtype=np.int64)
    noised = add_noise(total, noise_multiplier=1000.0, norm_bound=32_767)
    assert np.abs(noised - total).max() < 20 * 1000 * 32_767
    for beyond in (SUM_BOUND + 1, -SUM_BOUND - 1):
        with pytest.raises(OverflowError, match="int64"):
            add_noise(np.array([beyond]), noise_multiplier=1.0, norm_bound=1)


@pytest.mark.parametrize(
    ("total", "noise_multiplier", "norm_bound"),
    [
        (np.zeros(2), 1.0, 10),
        (np.zeros((2, 2), dtype=np.int64), 1.0, 10),
        (np.zeros(2, dtype=np.int64), 0.0, 10),
        (np.zeros(2, dtype=np.int64), math.nan, 10),
        (np.zeros(2, dtype=np.int64), 1.0, 0),
    ],
)
def test_wrong_arguments_never_give_an_unnoised_sum(total, noise_multiplier, norm_bound):
    """No vector comes back for a scale of zero or a vector of floats."""
    with pytest.raises(ValueError, match=r"int64|positive"):
        add_noise(total, noise_multiplier=noise_multiplier, norm_bound=norm_bound)
