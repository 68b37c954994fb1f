"""What is said when a condition does not hold, and when to look again."""

from __future__ import annotations

from dataclasses import fields, replace
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pocketfl.conditions import (
    ConditionSpec,
    HourWindow,
    Signals,
    Thermal,
    UnknownSpec,
    check_conditions,
    unmet,
)

from .strategies import signals, specs, times, windows

NONE = ConditionSpec.none()
NOON = datetime(2026, 3, 4, 12, 30, tzinfo=UTC).timestamp()
GOOD = Signals(
    battery_level=0.8,
    charging=True,
    thermal=Thermal.NONE,
    metered=False,
    idle=True,
    power_save=False,
    free_storage_bytes=10**10,
    free_memory_bytes=10**9,
)
STRICT = ConditionSpec(
    require_charging=True,
    require_idle=True,
    when_unknown=UnknownSpec(
        battery_level="refuse", thermal="refuse", metered="refuse", power_save="refuse"
    ),
)

CASES = [
    ({"battery_level": 0.24}, "battery 24 % < 30 %"),
    ({"charging": False}, "charging on battery, required on external power"),
    ({"thermal": Thermal.MODERATE}, "thermal status moderate, required at most light"),
    ({"metered": True}, "network metered, required unmetered"),
    ({"idle": False}, "device in use, required idle"),
    ({"power_save": True}, "power save on, required off"),
    ({"free_storage_bytes": 50 * 2**20}, "free storage 50 MiB < 200 MiB"),
    ({"free_memory_bytes": 100 * 2**20}, "free memory 100 MiB < 128 MiB"),
]


def test_a_device_in_good_state_meets_everything() -> None:
    """No reasons against a cool, idle, charged phone on its own network, however strict the plan."""
    assert unmet(STRICT, GOOD, now=NOON) == ()


@pytest.mark.parametrize(("change", "text"), CASES)
def test_each_condition_says_what_is_and_what_should_be(
    change: dict[str, object], text: str
) -> None:
    """One broken condition gives one reason with both sides and a time to look again."""
    (reason,) = unmet(STRICT, replace(GOOD, **change), now=NOON)
    assert str(reason) == text
    assert reason.retry_seconds is not None
    soonest, latest = reason.retry_seconds
    assert 0 < soonest < latest


@pytest.mark.parametrize(("change", "text"), CASES)
def test_unknown_means_what_the_plan_says(change: dict[str, object], text: str) -> None:
    """Refused as unknown under "refuse", passed under "allow", never asked without the condition."""
    state = replace(GOOD, **dict.fromkeys(change))
    (reason,) = unmet(STRICT, state, now=NOON)
    assert reason.observed == "unknown"
    assert text.startswith(reason.condition)
    (name,) = change
    name = name.removesuffix("_bytes")
    for everything_else in ("allow", "refuse"):
        lenient = UnknownSpec(
            **{**{f.name: everything_else for f in fields(UnknownSpec)}, name: "allow"}
        )
        assert unmet(replace(STRICT, when_unknown=lenient), state, now=NOON) == ()
    assert unmet(replace(NONE, when_unknown=STRICT.when_unknown), state, now=NOON) == ()


def test_a_device_that_knows_nothing_is_refused_only_for_what_it_must_know() -> None:
    """By default a desktop without any sensor trains; one that cannot see its disk does not."""
    found = unmet(ConditionSpec(), Signals(), now=NOON)
    assert [r.condition for r in found] == ["free storage", "free memory"]
    asked = ConditionSpec(require_charging=True, require_idle=True)
    assert {"charging", "device"} <= {r.condition for r in unmet(asked, Signals(), now=NOON)}


def test_a_charging_battery_is_looked_at_sooner() -> None:
    """6 % short on the charger is minutes away, off the charger some hours."""
    spec = replace(NONE, min_battery_level=0.3)
    (plugged,) = unmet(spec, Signals(battery_level=0.24, charging=True), now=NOON)
    (unplugged,) = unmet(spec, Signals(battery_level=0.24, charging=False), now=NOON)
    assert plugged.retry_seconds is not None
    assert unplugged.retry_seconds == (5 * 3600, 7 * 3600)
    assert plugged.retry_seconds[1] < 3600


def test_exactly_the_minimum_is_enough() -> None:
    """Bounds are inclusive."""
    spec = ConditionSpec()
    state = replace(
        GOOD,
        battery_level=spec.min_battery_level,
        thermal=Thermal.LIGHT,
        free_storage_bytes=spec.min_free_storage_bytes,
        free_memory_bytes=spec.min_free_memory_bytes,
    )
    assert unmet(spec, state, now=NOON) == ()


def test_a_window_over_midnight_opens_when_it_says() -> None:
    """At half past noon, a window from 22:30 to 06:00 is ten hours away."""
    spec = replace(NONE, windows=(HourWindow(start=22.5, end=6),))
    (reason,) = unmet(spec, GOOD, now=NOON, timezone=UTC)
    assert str(reason) == "local time 12:30, required within 22:30-06:00"
    assert reason.retry_seconds == (36_000, 39_600)
    assert unmet(spec, GOOD, now=NOON + 36_000, timezone=UTC) == ()
    assert unmet(spec, GOOD, now=NOON + 17.5 * 3600, timezone=UTC) != ()


@settings(max_examples=300, deadline=None)
@given(chosen=st.lists(windows, min_size=1, max_size=3), now=times)
def test_the_stated_opening_is_the_first_one(chosen: list[HourWindow], now: float) -> None:
    """Closed until the earliest retry, open from there on; without one, closed all day."""
    spec = replace(NONE, windows=tuple(chosen))
    reasons = unmet(spec, GOOD, now=now, timezone=UTC)
    if not reasons:
        return
    minute = 60.0
    wait = reasons[0].retry_seconds
    if wait is None:
        closed = [now + 600 * step for step in range(144)]
    else:
        # Floating point and microseconds of the clock blur the edge a little.
        closed = [now + fraction * max(0.0, wait[0] - minute) for fraction in (0.25, 0.5, 0.75, 1)]
        length = 2 * (wait[1] - wait[0])
        inside = now + wait[0] + length / 4
        if length > 1:
            assert unmet(spec, GOOD, now=inside, timezone=UTC) == ()
    for moment in closed:
        assert unmet(spec, GOOD, now=moment, timezone=UTC) != ()


@settings(max_examples=200, deadline=None)
@given(spec=specs, state=signals, now=times)
def test_every_reason_can_be_shown_and_waited_for(
    spec: ConditionSpec, state: Signals, now: float
) -> None:
    """Whatever the state, reasons have words on both sides and an ordered time to wait."""
    reasons = unmet(spec, state, now=now, timezone=UTC)
    assert len({r.condition for r in reasons}) == len(reasons)
    for reason in reasons:
        assert reason.observed and reason.required and str(reason)
        if reason.retry_seconds is not None:
            assert 0 <= reason.retry_seconds[0] <= reason.retry_seconds[1]


def test_a_provider_that_fails_is_a_reason_not_to_train() -> None:
    """An app's broken provider neither raises out of a round nor counts as unknown."""

    class Broken:
        def read(self) -> Signals:
            raise RuntimeError("no such sensor")

    (reason,) = check_conditions(Broken(), NONE, now=NOON)
    assert reason.condition == "signals"
    assert "no such sensor" in reason.observed
