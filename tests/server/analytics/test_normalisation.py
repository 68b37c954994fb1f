"""Learned transforms hold what the distributions say, and refuse what noise hides."""

import numpy as np
import pytest

from pocketfl_server.analytics.estimators import estimate_distribution, estimate_moments
from pocketfl_server.analytics.normalisation import (
    scale_between_quantiles,
    standardise_by_moments,
)


def test_ranges_are_quantiles_and_never_narrower_than_a_bin():
    """Of even weight, 1 % and 99 % lie where they should; a single value still gets a range."""
    even = estimate_distribution(np.ones(16), branching=16, levels=1, low=0, high=160, noise=1e-9)
    made = scale_between_quantiles(even, field="x")
    assert (made.low, made.high) == pytest.approx((1.6, 158.4))
    spike = np.zeros(16)
    spike[3] = 100
    one = estimate_distribution(spike, branching=16, levels=1, low=0, high=160, noise=1e-9)
    made = scale_between_quantiles(one, field="x")
    assert made.high - made.low == pytest.approx(10)
    assert made.low <= 35 <= made.high


def test_moments_become_a_transform_and_noise_is_refused():
    """Mean and deviation come through; what noise hides is an error that says what to do."""
    sums = np.array([1000.0, 0.0, 250.0])
    found = estimate_moments(sums, noise=1e-6, low=0, high=10)
    made = standardise_by_moments(found, field="x", source="server")
    assert (made.mean, made.deviation, made.source) == pytest.approx((5, 2.5, "server"))
    with pytest.raises(ValueError, match="more devices"):
        standardise_by_moments(estimate_moments(sums, noise=5000.0, low=0, high=10), field="x")
    hidden = estimate_distribution(np.ones(4), branching=4, levels=1, low=0, high=1, noise=50.0)
    with pytest.raises(ValueError, match="noise hides"):
        scale_between_quantiles(hidden, field="x")
