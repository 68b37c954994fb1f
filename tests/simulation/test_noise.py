"""The noise of a simulation has the distribution of the trusted tier's."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from pocketfl_simulation.noise import LEAST_SCALE, draw_noise


@pytest.mark.parametrize("multiplier", [0.05, 4.0], ids=["exact sampler", "rounded normal"])
def test_noise_is_a_discrete_gaussian(multiplier: float) -> None:
    """By chi-square in bins of equal width; one test of a million fails by chance."""
    bound, count = 40, 20_000
    scale = multiplier * bound
    assert (scale < LEAST_SCALE) == (multiplier == 0.05)
    noise = draw_noise(count, noise_multiplier=multiplier, norm_bound=bound)
    assert noise.dtype == np.int64
    support = np.arange(-math.ceil(9 * scale), math.ceil(9 * scale) + 1)
    probability = np.exp(-(support**2) / (2 * scale**2))
    probability /= probability.sum()
    edges = np.unique(np.rint(np.linspace(-2.5 * scale, 2.5 * scale, 12)))
    expected = np.array([p.sum() for p in np.split(probability, np.searchsorted(support, edges))])
    found = np.bincount(np.searchsorted(edges, noise, side="right"), minlength=len(edges) + 1)
    assert stats.chisquare(found, expected / expected.sum() * count).pvalue > 1e-6


def test_scales_at_which_a_rounded_normal_would_show_are_drawn_exactly() -> None:
    """At the least scale less than a hundred-thousandth of all probability lies elsewhere."""
    scale = LEAST_SCALE
    support = np.arange(-10 * int(scale), 10 * int(scale) + 1)
    exact = np.exp(-(support**2) / (2 * scale**2))
    exact /= exact.sum()
    # Tails from the same side, where differences of probabilities keep their digits.
    edges = np.abs(support)
    rounded = stats.norm.sf((edges - 0.5) / scale) - stats.norm.sf((edges + 0.5) / scale)
    difference = np.abs(rounded / exact - 1)
    assert difference[np.abs(support) < 5 * scale].max() < 2e-4
    assert np.abs(rounded - exact).sum() < 1e-5
