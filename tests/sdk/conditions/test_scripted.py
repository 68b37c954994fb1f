"""A script plays its signals by the clock it was given."""

from __future__ import annotations

import pytest

from pocketfl.conditions import ScriptedSignals, Signals

LOW, HIGH = Signals(battery_level=0.1), Signals(battery_level=0.9)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_script_plays_once() -> None:
    """Unknown before the first entry, then each from its second on, the last for ever."""
    clock = Clock()
    script = ScriptedSignals([(10, LOW), (20, HIGH)], clock=clock)
    seen = []
    for clock.now in (9.9, 10, 19.9, 20, 1e9):
        seen.append(script.read())
    assert seen == [Signals(), LOW, LOW, HIGH, HIGH]


def test_a_script_repeats_daily() -> None:
    """Each day is the same, and begins as the day before ended."""
    clock = Clock()
    script = ScriptedSignals([(3600, LOW), (7200, HIGH)], clock=clock, repeat_every=86_400)
    for day in (0, 29):
        seen = []
        for second in (0, 3600, 7199, 7200, 86_399):
            clock.now = day * 86_400.0 + second
            seen.append(script.read())
        assert seen == [HIGH, LOW, LOW, HIGH, HIGH]


def test_a_device_may_never_change() -> None:
    """The shortest script needs no clock."""
    assert [ScriptedSignals.always(LOW).read() for _ in range(2)] == [LOW, LOW]


@pytest.mark.parametrize(
    ("timeline", "repeat_every", "message"),
    [
        ([], None, "empty"),
        ([(5, LOW), (5, HIGH)], None, "sort it"),
        ([(5, LOW), (1, HIGH)], None, "sort it"),
        ([(-1, LOW)], 10.0, "repeats every 10"),
        ([(0, LOW), (10, HIGH)], 10.0, "repeats every 10"),
    ],
)
def test_a_script_that_makes_no_sense_is_refused(timeline, repeat_every, message) -> None:
    """A mistake in a simulation is found where it was made."""
    with pytest.raises(ValueError, match=message):
        ScriptedSignals(timeline, clock=Clock(), repeat_every=repeat_every)
