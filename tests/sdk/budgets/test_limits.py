"""Budgets: whoever has a say may tighten, nobody may widen."""

from __future__ import annotations

import math
from dataclasses import fields

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pocketfl.budgets import (
    DEFAULT_BUDGETS,
    HARD_BOUNDS,
    LEVELS,
    MEASURES,
    Amounts,
    Budgets,
    Limits,
    agreed_budgets,
)
from pocketfl.decoding import decode_json, encode_json

COUNTS = st.none() | st.integers(0, 10**12)
NUMBERS = st.none() | st.floats(0, 1e9)
LIMITS = st.builds(
    Limits,
    **{n: NUMBERS if n.endswith(("seconds", "joules")) else COUNTS for n in MEASURES},
)
BUDGETS = st.builds(
    Budgets,
    per_round=LIMITS,
    per_day=LIMITS,
    per_month=LIMITS,
    min_separation_seconds=st.floats(0, 1e7),
    max_contributions_per_task=COUNTS,
    max_epsilon_per_year=st.none() | st.floats(0, 1e3),
    delta=st.none() | st.floats(1e-12, 1e-3),
)
AMOUNTS = st.builds(
    Amounts,
    **{
        n: st.floats(0, 1e9) if n.endswith(("seconds", "joules")) else st.integers(0, 10**12)
        for n in MEASURES
    },
)


def upper_limits(budgets: Budgets) -> list[float]:
    """All limits as numbers of which a smaller one is tighter; infinite where there is none."""
    found = [-budgets.min_separation_seconds]
    values = [budgets.max_contributions_per_task, budgets.max_epsilon_per_year, budgets.delta]
    for part in (budgets.per_round, budgets.per_day, budgets.per_month):
        values += [getattr(part, each.name) for each in fields(part)]
    return found + [math.inf if value is None else value for value in values]


def no_wider(one: Budgets, other: Budgets) -> bool:
    return all(a <= b for a, b in zip(upper_limits(one), upper_limits(other), strict=True))


@settings(deadline=None)
@given(one=BUDGETS, other=BUDGETS)
def test_tightened_is_as_tight_as_both(one, other):
    """Each limit is that of one of the two, and no wider than either's."""
    both = one.tightened(other)
    assert no_wider(both, one)
    assert no_wider(both, other)
    assert both == other.tightened(one)
    for value, a, b in zip(*map(upper_limits, (both, one, other)), strict=True):
        assert value in (a, b)


@settings(deadline=None)
@given(plan=BUDGETS)
def test_no_plan_widens_anything(plan):
    """Whatever a signed plan says, the device keeps to the app's limits and to the hard bounds."""
    agreed = agreed_budgets(app=DEFAULT_BUDGETS, plan=plan)
    assert no_wider(agreed, agreed_budgets(app=DEFAULT_BUDGETS))
    assert no_wider(agreed, HARD_BOUNDS)
    assert no_wider(agreed, plan)


def test_an_app_that_goes_beyond_a_hard_bound_is_told_which():
    """Clamping in silence would let an app believe in a limit that does not hold."""
    app = Budgets(per_day=Limits(cpu_seconds=7201.0))
    with pytest.raises(ValueError, match=r"per_day\.cpu_seconds is 7201.*hard bound 7200"):
        agreed_budgets(app=app)
    with pytest.raises(ValueError, match="max_epsilon_per_year"):
        agreed_budgets(app=Budgets(max_epsilon_per_year=1001.0))


def test_every_measure_has_a_hard_bound_and_a_default():
    """Nothing is unlimited for want of a line; the defaults are no wider than the bounds."""
    assert all(math.isfinite(limit) for limit in upper_limits(HARD_BOUNDS))
    assert all(math.isfinite(limit) for limit in upper_limits(DEFAULT_BUDGETS))
    assert no_wider(DEFAULT_BUDGETS, HARD_BOUNDS)
    assert agreed_budgets() == DEFAULT_BUDGETS


@settings(deadline=None)
@given(budgets=BUDGETS)
def test_budgets_survive_a_plan(budgets):
    """What a plan's manifest says is what is read from it."""
    data = encode_json(budgets)
    assert decode_json(Budgets, data, what="budgets", limit=10_000) == budgets


@pytest.mark.parametrize("value", [-1.0, math.nan, math.inf])
def test_impossible_limits_are_refused(value):
    """The message names the limit."""
    with pytest.raises(ValueError, match="cpu_seconds must be 0"):
        Limits(cpu_seconds=value)
    with pytest.raises(ValueError, match="min_separation_seconds"):
        Budgets(min_separation_seconds=value)
    with pytest.raises(ValueError, match="joules must be"):
        Amounts(joules=value)
    with pytest.raises(ValueError, match="delta"):
        Budgets(delta=value)


@settings(deadline=None)
@given(one=AMOUNTS, other=AMOUNTS)
def test_flows_add_up_and_levels_do_not(one, other):
    """Two sessions of 100 MB of memory need 100 MB; two of 10 seconds need 20."""
    both = one + other
    for name in MEASURES:
        a, b = getattr(one, name), getattr(other, name)
        assert getattr(both, name) == (max(a, b) if name in LEVELS else a + b)
    assert Amounts.of(one.values()) == one
    assert one.covering(other).covering(one) == one.covering(other)
