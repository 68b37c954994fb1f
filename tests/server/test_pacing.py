"""Devices that are turned away come back at a steady rate."""

from __future__ import annotations

import random
from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pocketfl_server.optimizers import OptimizerSpec
from pocketfl_server.pacing import Arrivals

from .conftest import CHECK_IN

NOW = 1_800_000_000.0


def test_a_crowd_comes_back_at_the_rate_that_was_asked_for() -> None:
    """20,000 devices at once, 10 a second: no minute sees more than 600, and none is left idle."""
    arrivals = Arrivals(per_second=10)
    minutes = Counter(int((NOW + arrivals.delay(now=NOW, after=30.0)) // 60) for _ in range(20_000))
    assert max(minutes.values()) == 600
    assert len(minutes) == -(-20_000 // 600)
    assert max(minutes) - min(minutes) == len(minutes) - 1


def test_arrivals_within_their_windows_stay_flat() -> None:
    """Each at a random time of a window as wide as the back end's: at most a fifth above the rate."""
    arrivals, draw = Arrivals(per_second=10), random.Random(7)
    starts = [arrivals.delay(now=NOW, after=30.0) for _ in range(20_000)]
    minutes = Counter(int((start + draw.uniform(0, 270)) // 60) for start in starts)
    middle = [minutes[minute] for minute in sorted(minutes)[5:-5]]
    assert max(minutes.values()) < 720
    assert min(middle) > 480


@given(st.lists(st.tuples(st.floats(0, 3600), st.floats(0, 600)), max_size=60))
def test_nobody_comes_earlier_than_asked_and_no_minute_overflows(asked) -> None:
    """Whatever the clock does forward and whatever is asked for, capacity and bounds hold."""
    arrivals, now, minutes = Arrivals(per_second=1 / 20), NOW, Counter()
    for after, passes in asked:
        delay = arrivals.delay(now=now, after=after)
        assert delay >= after - 1e-6
        minutes[int((now + delay) // 60)] += 1
        now += passes
    assert max(minutes.values(), default=0) <= 3


def test_the_back_end_spreads_whom_it_turns_away(back_end, fleet, make_plan, clock) -> None:
    """At a small rate, the windows of devices that find a closed round move apart."""
    back_end._intake._arrivals = Arrivals(per_second=1 / 60)
    plan = make_plan()
    back_end.create_task(
        "clicks", plan.data, optimizer=OptimizerSpec(kind="sgd", learning_rate=1.0)
    )
    back_end.open_round("clicks", seconds=60)
    clock.now += 61
    windows = [back_end.check_in(fleet.token(f"d{n}"), "clicks", 1, CHECK_IN) for n in range(4)]
    starts = [window.min_seconds for window in windows]
    assert starts[0] == 30.0
    assert all(59.9 < b - a < 120.1 for a, b in pairwise(starts[1:]))
    assert all(w.max_seconds - w.min_seconds == pytest.approx(270.0) for w in windows)


@pytest.mark.parametrize("rate", [0, -1, 1e7, float("nan")])
def test_a_rate_that_makes_no_sense_is_refused(rate) -> None:
    """Zero, less, too much and no number at all."""
    with pytest.raises(ValueError, match="arrivals per second"):
        Arrivals(per_second=rate)
