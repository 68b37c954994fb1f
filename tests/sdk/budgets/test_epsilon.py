"""The privacy loss that the device counts, against two independent ways to count it."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from pocketfl.budgets import contribution_rho, epsilon_of


def exact_delta(rho: float, epsilon: float) -> float:
    """Delta of Gaussian mechanisms composed to ``rho`` (Balle and Wang 2018, theorem 8)."""
    mu = math.sqrt(2 * rho)
    shift = epsilon / mu
    return norm.cdf(mu / 2 - shift) - math.exp(epsilon) * norm.cdf(-mu / 2 - shift)


@settings(deadline=None)
@given(rho=st.floats(1e-4, 40), exponent=st.floats(3, 9))
def test_epsilon_holds(rho, exponent):
    """The exact delta at the stated epsilon is no larger than the stated delta."""
    delta = 10**-exponent
    epsilon = epsilon_of(rho, delta=delta)
    assert exact_delta(rho, epsilon) <= delta * (1 + 1e-6)


@pytest.mark.parametrize("sigma", [0.3, 1.0, 4.0])
@pytest.mark.parametrize("count", [1, 10, 200])
def test_epsilon_agrees_with_dp_accounting(sigma, count):
    """Within half a percent of the server's accountant, composing unsampled Gaussians."""
    import dp_accounting
    from dp_accounting import rdp

    orders = [1 + 2 ** (step / 8) for step in range(-48, 81)]
    accountant = rdp.RdpAccountant(orders, dp_accounting.NeighboringRelation.REPLACE_SPECIAL)
    accountant.compose(dp_accounting.GaussianDpEvent(sigma), count)
    expected = accountant.get_epsilon(1e-6)
    epsilon = epsilon_of(count * contribution_rho(sigma), delta=1e-6)
    assert epsilon == pytest.approx(expected, rel=5e-3)


@settings(deadline=None)
@given(rho=st.floats(0, 50), more=st.floats(0, 50), delta=st.floats(1e-9, 0.01))
def test_epsilon_grows_with_every_contribution(rho, more, delta):
    """More contributions, or a smaller delta, never state a smaller epsilon."""
    epsilon = epsilon_of(rho, delta=delta)
    assert epsilon <= epsilon_of(rho + more, delta=delta)
    assert epsilon <= epsilon_of(rho, delta=delta / 2)
    # Bun and Steinke 2016, proposition 1.3, is the simpler and wider bound.
    assert epsilon <= rho + 2 * math.sqrt(rho * math.log(1 / delta)) + 1e-2


def test_nothing_spent_is_nothing():
    """A device that never took part has an epsilon of zero."""
    assert epsilon_of(0.0, delta=1e-6) == 0.0


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf])
def test_impossible_noise_is_refused(value):
    """No noise is not a number of contributions with a price."""
    with pytest.raises(ValueError, match="noise_multiplier"):
        contribution_rho(value)


@pytest.mark.parametrize(("rho", "delta"), [(-1.0, 1e-6), (math.nan, 1e-6), (1.0, 0.0), (1.0, 1.0)])
def test_impossible_arguments_are_refused(rho, delta):
    """The message names the one that is wrong."""
    with pytest.raises(ValueError, match="must be"):
        epsilon_of(rho, delta=delta)
