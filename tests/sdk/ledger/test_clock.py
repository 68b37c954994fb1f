"""The ledger's time: never backwards, never faster than a clock can vouch for."""

from __future__ import annotations

import itertools
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pocketfl.ledger.clock import DAY, Instant, Uptime, advance, system_uptime

YEARS = st.floats(-20 * 365 * DAY, 20 * 365 * DAY)


@settings(deadline=None)
@given(steps=st.lists(st.tuples(st.floats(0, 40 * DAY), YEARS), max_size=30))
def test_within_a_boot_the_wall_clock_is_not_asked(steps):
    """However it jumps, the ledger's time advances by what really passed."""
    now = advance(None, wall=0.0, uptime=Uptime(boot="a", seconds=5.0))
    passed = 0.0
    for seconds, wall in steps:
        passed += seconds
        now = advance(now, wall=wall, uptime=Uptime(boot="a", seconds=5.0 + passed))
        assert now.time == pytest.approx(passed, abs=1e-3)


@settings(deadline=None)
@given(walls=st.lists(YEARS, max_size=30))
def test_without_uptime_a_jump_frees_a_day_at_most(walls):
    """The time never runs backwards, and by a day at most in one go."""
    now = advance(None, wall=0.0, uptime=None)
    for wall in walls:
        before, now = now, advance(now, wall=wall, uptime=None)
        most = min(DAY, max(0.0, wall - before.wall))
        # Sums of years in floating point differ by far less than a microsecond.
        assert 0 <= now.time - before.time <= most + 1e-6


@settings(deadline=None)
@given(jump=st.floats(0, 25 * DAY), times=st.integers(1, 20))
def test_jumping_to_and_fro_frees_nothing_more(jump, times):
    """A clock that goes forward and back again and again gains what its first jump gained."""
    now = advance(None, wall=0.0, uptime=None)
    for _ in range(times):
        now = advance(now, wall=jump, uptime=None)
        now = advance(now, wall=0.0, uptime=None)
    assert now.time <= min(DAY, jump) + 1e-6


@settings(deadline=None)
@given(waits=st.lists(st.floats(0, DAY), max_size=20), back=st.floats(0, 20 * DAY))
def test_time_goes_on_after_a_clock_was_set_back(waits, back):
    """What is owed is paid by waiting, and then the time runs as before."""
    now = advance(Instant(time=0.0, wall=back), wall=0.0, uptime=None)
    for at in itertools.accumulate(waits):
        now = advance(now, wall=at, uptime=None)
    assert now.time == pytest.approx(max(0.0, sum(waits) - back), abs=1e-3)


def test_another_boot_is_not_taken_for_this_one():
    """A longer uptime of another boot says nothing about the time in between."""
    last = Instant(time=7.0, wall=100.0, uptime=Uptime(boot="a", seconds=50.0))
    now = advance(last, wall=160.0, uptime=Uptime(boot="b", seconds=90_000.0))
    assert now.time == 67.0


def test_an_uptime_that_shrank_is_another_boot():
    """Where boots are not told apart well, a smaller uptime is never a step backwards."""
    last = Instant(time=7.0, wall=100.0, uptime=Uptime(boot="a", seconds=50.0))
    assert advance(last, wall=130.0, uptime=Uptime(boot="a", seconds=3.0)).time == 37.0


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells which boot it is")
def test_the_systems_uptime_runs():
    """Two readings are of one boot and in order."""
    first, second = system_uptime(), system_uptime()
    assert first.boot == second.boot
    assert 0 < first.seconds <= second.seconds
