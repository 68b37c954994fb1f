"""Conditions as data: bounds, JSON, and tightening that never loosens."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pocketfl.conditions import ConditionSpec, HourWindow, Signals, UnknownSpec, unmet
from pocketfl.decoding import decode_json, encode_json
from pocketfl.errors import DecodeError
from pocketfl.plan import EligibilitySpec

from .strategies import signals, specs, times


@settings(max_examples=300, deadline=None)
@given(plan=specs, app=specs, state=signals, now=times)
def test_tightened_conditions_hold_exactly_when_both_hold(
    plan: ConditionSpec, app: ConditionSpec, state: Signals, now: float
) -> None:
    """An app never lets a device train where the plan would not, nor the other way round."""
    both = unmet(plan.tightened(app), state, now=now, timezone=UTC)
    for side in (plan, app):
        broken = unmet(side, state, now=now, timezone=UTC)
        assert {r.condition for r in broken} <= {r.condition for r in both}


@settings(max_examples=200, deadline=None)
@given(plan=specs, state=signals, now=times)
def test_tightening_with_nothing_changes_nothing(
    plan: ConditionSpec, state: Signals, now: float
) -> None:
    """The conditions of ``none`` are met by every device, and they are neutral."""
    none = ConditionSpec.none()
    assert unmet(none, state, now=now) == ()
    assert unmet(plan.tightened(none), state, now=now) == unmet(
        replace(plan, windows=tuple(sorted(set(plan.windows)))), state, now=now
    )


@settings(max_examples=200, deadline=None)
@given(a=specs, b=specs, c=specs)
def test_tightening_does_not_depend_on_the_order(
    a: ConditionSpec, b: ConditionSpec, c: ConditionSpec
) -> None:
    """Whoever comes first, the result is the same, and doing it twice adds nothing."""
    assert a.tightened(b) == b.tightened(a)
    assert a.tightened(b).tightened(c) == a.tightened(b.tightened(c))
    assert a.tightened(b).tightened(b) == a.tightened(b)


@settings(max_examples=200, deadline=None)
@given(spec=specs)
def test_conditions_survive_json(spec: ConditionSpec) -> None:
    """What is signed in a plan is what the device decodes, off values (0, none) included."""
    assert decode_json(ConditionSpec, encode_json(spec), what="conditions", limit=10_000) == spec


def test_defaults_are_those_of_the_docs() -> None:
    """30 % battery, stop at moderate heat, unmetered, no power save, some storage and memory."""
    spec = EligibilitySpec().conditions
    assert (spec.min_battery_level, spec.max_thermal) == (0.30, "light")
    assert spec.require_unmetered and spec.refuse_power_save
    assert not spec.require_charging and not spec.require_idle
    assert (spec.min_free_storage_bytes, spec.min_free_memory_bytes) == (200 * 2**20, 128 * 2**20)
    assert spec.windows == ()


@given(spec=specs, state=signals, now=times)
def test_a_description_names_every_condition_that_can_break(
    spec: ConditionSpec, state: Signals, now: float
) -> None:
    """As many phrases as could become reasons, and none for conditions that ask for nothing."""
    assert ConditionSpec.none().describe() == ()
    phrases = spec.describe()
    assert len(phrases) >= len(unmet(spec, state, now=now))
    assert ("charging" in phrases, "idle" in phrases) == (spec.require_charging, spec.require_idle)


def test_the_default_conditions_read_well() -> None:
    """What `pocketfl plan` shows for a plan that says nothing else."""
    assert ", ".join(
        replace(ConditionSpec(), windows=(HourWindow(start=22.5, end=6),)).describe()
    ) == (
        "battery >= 30 %, thermal at most light, unmetered network, power save off, "
        "free storage >= 200 MiB, free memory >= 128 MiB, local time 22:30-06:00"
    )


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ('{"min_battery_level": 1.5}', "min_battery_level"),
        ('{"min_battery_level": -0.1}', "min_battery_level"),
        ('{"max_thermal": "hot"}', "max_thermal"),
        ('{"require_charging": 1}', "require_charging"),
        ('{"min_free_storage_bytes": -1}', "min_free_storage_bytes"),
        ('{"min_free_memory_bytes": 2000000000000000000}', "min_free_memory_bytes"),
        ('{"windows": [{"start": 24, "end": 3}]}', "windows[0]"),
        ('{"windows": [{"start": 5, "end": 5}]}', "windows[0]"),
        ('{"windows": [{"start": 1, "end": 24.5}]}', "windows[0]"),
        ('{"when_unknown": {"idle": "perhaps"}}', "when_unknown.idle"),
        ('{"min_charge": 0.5}', "min_charge"),
    ],
)
def test_conditions_out_of_bounds_are_refused_by_name(text: str, named: str) -> None:
    """A plan's bytes are not trusted to make sense."""
    with pytest.raises(DecodeError, match=named.replace("[", r"\[").replace("]", r"\]")):
        decode_json(ConditionSpec, text.encode(), what="conditions", limit=1000)


def test_a_plan_has_a_bounded_number_of_windows() -> None:
    """A hostile plan cannot make the device check thousands of windows."""
    many = tuple(HourWindow(start=hour, end=hour + 1) for hour in range(9))
    with pytest.raises(ValueError, match="9 windows"):
        EligibilitySpec(conditions=ConditionSpec(windows=many))


def test_what_unknown_means_is_checked_in_python_too() -> None:
    """A misspelt choice is no silent permission."""
    with pytest.raises(ValueError, match="metered is 'deny'"):
        UnknownSpec(metered="deny")
    with pytest.raises(ValueError, match="max_thermal is 'warm'"):
        ConditionSpec(max_thermal="warm")


@given(st.floats(0, 24, exclude_max=True))
def test_a_window_and_its_complement_split_the_day(hour: float) -> None:
    """Every hour is inside exactly one of two windows that meet at both ends, over midnight too."""
    night, day = HourWindow(start=22.5, end=6), HourWindow(start=6, end=22.5)
    assert night.contains(hour) != day.contains(hour)
    assert HourWindow(start=0, end=24).contains(hour)
    assert (night.hours, day.hours) == (7.5, 16.5)


def test_signals_out_of_range_are_refused() -> None:
    """A provider that reports percent for a fraction is found at once."""
    with pytest.raises(ValueError, match="battery_level is 77"):
        Signals(battery_level=77)
    with pytest.raises(ValueError, match="battery_level is nan"):
        Signals(battery_level=float("nan"))
    with pytest.raises(ValueError, match="free_memory_bytes is -1"):
        Signals(free_memory_bytes=-1)
