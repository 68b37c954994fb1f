"""Epsilon is what theory says it is, and never less."""

from __future__ import annotations

import dataclasses
import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import logsumexp

from pocketfl_server.trusted import accounting
from pocketfl_server.trusted.accounting import (
    SAMPLED_ORDERS,
    UNSAMPLED_ORDERS,
    affords,
    check_claims,
    planned_privacy,
    spent_privacy,
)
from pocketfl_server.trusted.curves import CHILD_VARIABLE, release_event, renyi_curve
from pocketfl_server.trusted.refusals import PlanRefused


def manifest_of(make_plan, **changes):
    """The manifest of a plan with sampling, like the demonstration's."""
    arguments = {
        "population": 3230,
        "sampling_probability": 0.1,
        "cohort_floor": 200,
        "max_rounds": 100,
        "max_participations": 40,
        "epsilon": 9.0,
        **changes,
    }
    return make_plan(**arguments).manifest


@pytest.mark.parametrize("sigma", [0.5, 1.0, 4.0])
@pytest.mark.parametrize("releases", [1, 7, 10])
def test_without_sampling_the_closed_form_holds(make_plan, sigma, releases):
    """T unsampled Gaussians: RDP a T / (2 sigma^2), converted; below the classic zCDP bound."""
    delta = 1e-5
    manifest = make_plan(noise_multiplier=sigma, delta=delta, epsilon=1000.0).manifest
    rho = releases / (2 * sigma**2)
    by_hand = min(
        rho * a + math.log1p(-1 / a) - math.log(delta * a) / (a - 1) for a in UNSAMPLED_ORDERS
    )
    statement = spent_privacy(manifest, releases)
    assert statement.epsilon == pytest.approx(by_hand, rel=1e-9)
    assert statement.epsilon_against_back_end == statement.epsilon
    assert statement.epsilon <= rho + 2 * math.sqrt(rho * math.log(1 / delta))


def test_sampled_statement_is_the_accountants_own(make_plan):
    """Our cached curve gives exactly what dp-accounting composes with the zero-out relation."""
    import dp_accounting
    from dp_accounting import rdp

    manifest = manifest_of(make_plan)
    accountant = rdp.RdpAccountant(
        SAMPLED_ORDERS, dp_accounting.NeighboringRelation.REPLACE_SPECIAL
    )
    accountant.compose(release_event(0.1, 1.0), 100)
    statement = planned_privacy(manifest)
    expected = accountant.get_epsilon(manifest.dp.delta)
    assert statement.epsilon == pytest.approx(expected, rel=1e-12)
    assert statement.releases == 100
    assert "REPLACE_SPECIAL" in statement.neighbouring_relation
    assert statement.sampling.startswith("Poisson")
    assert statement.delta == 1e-5


def test_an_independent_accountant_agrees(make_plan):
    """The privacy loss distribution, computed another way, is below our bound and near it."""
    import dp_accounting
    from dp_accounting import pld

    accountant = pld.PLDAccountant(dp_accounting.NeighboringRelation.REPLACE_SPECIAL)
    accountant.compose(release_event(0.1, 1.0), 100)
    tight = accountant.get_epsilon(1e-5)
    ours = planned_privacy(manifest_of(make_plan)).epsilon
    assert tight <= ours <= 1.25 * tight


def test_zero_out_needs_poisson_sampling():
    """dp-accounting documents the relation for Poisson sampling and refuses replace-one there."""
    import dp_accounting
    from dp_accounting import rdp

    event = release_event(0.1, 1.0)
    relations = dp_accounting.NeighboringRelation
    assert rdp.RdpAccountant([2], relations.REPLACE_SPECIAL).supports(event)
    assert not rdp.RdpAccountant([2], relations.REPLACE_ONE).supports(event)


@pytest.mark.parametrize(("shift", "sigma", "q"), [(3, 2.0, 0.1), (1, 1.5, 0.3), (5, 5.0, 0.02)])
@pytest.mark.parametrize("order", [2, 3, 8])
def test_continuous_price_is_right_for_the_discrete_gaussian(shift, sigma, q, order):
    """Both Rényi divergences, summed over the whole numbers, against the continuous formula."""
    points = np.arange(-400, 401)
    log_base = -(points**2) / (2 * sigma**2)
    log_base -= logsumexp(log_base)
    log_ratio = (2 * points * shift - shift**2) / (2 * sigma**2)
    log_mixture = np.logaddexp(math.log(1 - q), math.log(q) + log_ratio)
    forward = logsumexp(log_base + order * log_mixture) / (order - 1)
    backward = logsumexp(log_base + (1 - order) * log_mixture) / (order - 1)
    priced = renyi_curve(q, sigma / shift, SAMPLED_ORDERS)[SAMPLED_ORDERS.index(order)]
    assert forward == pytest.approx(priced, rel=1e-6)
    assert backward <= priced * (1 + 1e-9)


@settings(max_examples=25, deadline=None)
@given(
    q=st.sampled_from([0.01, 0.1, 0.5, 1.0]),
    sigma=st.sampled_from([0.5, 1.0, 2.0]),
    count=st.integers(1, 500),
)
def test_epsilon_moves_the_right_way(q, sigma, count):
    """More rounds, more sampling or less noise never cost less."""
    epsilon = accounting._epsilon(((q, sigma, count),), 1e-5)
    assert accounting._epsilon(((q, sigma, count + 1),), 1e-5) >= epsilon > 0
    assert accounting._epsilon(((q, sigma * 2, count),), 1e-5) <= epsilon
    assert accounting._epsilon(((q / 2, sigma, count),), 1e-5) <= epsilon * (1 + 1e-9)
    assert accounting._epsilon(((q, sigma, count),), 1e-6) >= epsilon


def test_back_end_epsilon_stops_at_the_participation_cap(make_plan):
    """Whoever sees who took part learns from at most so many reports of one device."""
    manifest = manifest_of(make_plan)
    capped = spent_privacy(manifest, 40).epsilon_against_back_end
    assert planned_privacy(manifest).epsilon_against_back_end == capped
    assert spent_privacy(manifest, 39).epsilon_against_back_end < capped
    assert planned_privacy(manifest).epsilon < capped


def exact_divergence(*, order: int, cap: int, rounds: int, q: float, sigma: float) -> float:
    """Renyi divergence, at a whole order, of ``rounds`` noisy coins that stop at ``cap`` heads.

    The likelihood ratio is a mixture over coin histories of products of Gaussian ratios, and
    ``E[prod ratio_i] = exp(sum over pairs of histories of (their shared heads) / sigma^2)``.
    """
    histories: dict[tuple[int, ...], float] = {}
    for coins in itertools.product((0, 1), repeat=rounds):
        weight = math.prod(q if coin else 1 - q for coin in coins)
        heads, taken = 0, []
        for coin in coins:
            taken.append(coin if heads < cap else 0)
            heads += taken[-1]
        histories[tuple(taken)] = histories.get(tuple(taken), 0.0) + weight
    total = 0.0
    for group in itertools.product(histories.items(), repeat=order):
        weight = math.prod(w for _, w in group)
        shared = sum(
            sum(a * b for a, b in zip(group[i][0], group[j][0], strict=True))
            for i in range(order)
            for j in range(i)
        )
        total += weight * math.exp(shared / sigma**2)
    return math.log(total) / (order - 1)


@pytest.mark.parametrize(("order", "cap"), [(2, 1), (2, 2), (2, 4), (3, 1), (3, 2)])
def test_a_cap_on_participations_never_costs(order, cap):
    """Computed exactly for few rounds: coins that stop at a cap reveal no more than coins that do not.

    This is why a low cap needs no price: it only improves the bound against the back end.
    """
    rounds, q, sigma = 4, 0.3, 0.8
    capped = exact_divergence(order=order, cap=cap, rounds=rounds, q=q, sigma=sigma)
    free = exact_divergence(order=order, cap=rounds, rounds=rounds, q=q, sigma=sigma)
    assert capped <= free * (1 + 1e-12)
    assert free == pytest.approx(rounds * _sampled_divergence(order, q, sigma), rel=1e-9)


def _sampled_divergence(order: int, q: float, sigma: float) -> float:
    """Mironov, Talwar and Zhang 2019, section 3.3, at a whole order, written out."""
    moments = (
        math.comb(order, k) * (1 - q) ** (order - k) * q**k * math.exp(k * (k - 1) / (2 * sigma**2))
        for k in range(order + 1)
    )
    return math.log(math.fsum(moments)) / (order - 1)


def test_a_budget_below_one_release_is_refused(make_plan):
    """A task that could never release anything is refused when it is registered."""
    with pytest.raises(PlanRefused, match="noise multiplier"):
        check_claims(manifest_of(make_plan, noise_multiplier=0.1, epsilon=0.5))


def test_affordable_releases_end_at_the_budget(make_plan):
    """The last affordable release is within epsilon and the next one is not."""
    manifest = manifest_of(make_plan, epsilon=5.0)
    last = max(n for n in range(1, 101) if affords(manifest, n))
    assert last < 100
    assert spent_privacy(manifest, last).epsilon <= 5.0 < spent_privacy(manifest, last + 1).epsilon
    rich = manifest_of(make_plan, epsilon=1000.0)
    assert affords(rich, 100)
    assert not affords(rich, 101)


def test_unprotected_plans_claim_nothing(make_plan):
    """Privacy 'none' has no epsilon at all, rather than a number that could be misread."""
    statement = planned_privacy(make_plan(privacy="none").manifest)
    assert statement.privacy == "none"
    assert (statement.epsilon, statement.epsilon_against_back_end, statement.delta) == (None,) * 3
    assert statement.noise_multiplier == 0.0


def test_nothing_released_nothing_spent(make_plan):
    """Zero releases cost zero; a negative number is a mistake."""
    manifest = manifest_of(make_plan)
    assert spent_privacy(manifest, 0).epsilon == 0.0
    with pytest.raises(ValueError, match="0 or more"):
        spent_privacy(manifest, -1)


def test_statements_are_values(make_plan):
    """The same plan gives an equal statement, so it can be compared and stored."""
    manifest = manifest_of(make_plan)
    assert planned_privacy(manifest) == planned_privacy(dataclasses.replace(manifest))


@settings(max_examples=300, deadline=None)
@given(
    curve=st.lists(st.floats(0, 1e4), min_size=5, max_size=5),
    delta=st.floats(1e-12, 0.9),
)
def test_the_epsilon_of_a_curve_is_dp_accountings_digit_for_digit(curve, delta):
    """Our conversion and the library's are one function, at orders next to 1 as well."""
    from dp_accounting import rdp

    orders = (1.005, 1.02, 1.5, 8.0, 512.0)
    expected, _ = rdp.compute_epsilon(orders, curve, delta)
    assert accounting.epsilon_of_curve(orders, curve, delta) == expected


def test_a_child_prices_as_this_process_does(monkeypatch):
    """Every digit of a curve survives the way from the child, and this process loads nothing for it."""
    orders = SAMPLED_ORDERS[:8]
    here = renyi_curve(0.125, 1.25, orders)
    renyi_curve.cache_clear()
    monkeypatch.setenv(CHILD_VARIABLE, "1")
    assert renyi_curve(0.125, 1.25, orders) == here
    renyi_curve.cache_clear()
