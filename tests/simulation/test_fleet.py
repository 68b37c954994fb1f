"""Phones on a virtual clock: who reports, when, and that it is the same fleet in rounds and streams."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest

from pocketfl_simulation.errors import SimulationError
from pocketfl_simulation.fleet import DAY, HOUR, FleetBehaviour, FleetClock

DEVICES = 20_000
EVERYBODY = np.arange(DEVICES)


def test_four_times_as_many_devices_ask_at_night() -> None:
    """The rate at the peak is the stated multiple of that by day; a day has its check-ins."""
    behaviour = FleetBehaviour(night_to_day=4.0, peak_hour=2.0)
    night, day = behaviour.rate(np.array([2.0, 14.0]) * HOUR)
    assert night / day == pytest.approx(4.0)
    minutes = np.arange(0, DAY, 60.0)
    asked = float(behaviour.rate(minutes).sum() * 60)
    assert asked == pytest.approx(behaviour.check_ins_per_day * behaviour.eligible_share)


def test_a_round_accounts_for_everybody_and_ends_at_its_deadline() -> None:
    """Every participant reports or is lost for one reason; shares are those of the behaviour.

    Shares of 20,000 devices have standard deviations below 0.4 %, so that 2.5 % is six of them.
    """
    behaviour = FleetBehaviour()
    clock = FleetClock(behaviour, devices=DEVICES, seed=1, start_hour=22.0)
    times = clock.run_round(EVERYBODY, deadline=4 * HOUR)
    assert len(times.devices) + sum(times.lost.values()) == DEVICES
    assert (times.opened, times.closed) == (22 * HOUR, 26 * HOUR)
    assert len(set(times.devices.tolist())) == len(times.devices)
    assert times.lost["old"] / DEVICES == pytest.approx(behaviour.old_share, abs=0.025)
    present = DEVICES - times.lost["old"] - times.lost["away"]
    assert times.lost["dropped"] / present == pytest.approx(behaviour.drop_out, abs=0.025)
    by_day = FleetClock(behaviour, devices=DEVICES, seed=1, start_hour=12.0)
    assert by_day.run_round(EVERYBODY, deadline=4 * HOUR).lost["away"] > times.lost["away"]


def test_a_full_round_ends_with_its_last_report() -> None:
    """Where nobody is lost, nobody is waited for."""
    behaviour = FleetBehaviour(
        drop_out=0.0, old_share=0.0, eligible_share=1.0, check_ins_per_day=96
    )
    clock = FleetClock(behaviour, devices=50, seed=2)
    times = clock.run_round(np.arange(50), deadline=10 * DAY)
    assert len(times.devices) == 50
    assert times.closed < times.opened + DAY


def test_a_stream_has_the_rate_of_its_fleet() -> None:
    """Reports a day are devices times eligible check-ins, less who is old or drops out; in order.

    About 2,000 reports have a standard deviation of 2.3 %, of which 14 % are six.
    """
    behaviour = FleetBehaviour()
    clock = FleetClock(behaviour, devices=500, seed=3)
    arrivals = []
    for arrival in clock.stream():
        if arrival.finished > 12 * HOUR + DAY:
            break
        arrivals.append(arrival)
    finished = [arrival.finished for arrival in arrivals]
    assert finished == sorted(finished)
    assert all(arrival.started < arrival.finished for arrival in arrivals)
    rate = behaviour.check_ins_per_day * behaviour.eligible_share
    current = 1 - np.mean(clock.is_old(np.arange(500)))
    expected = 500 * rate * current * (1 - behaviour.drop_out)
    assert len(arrivals) == pytest.approx(expected, rel=0.14)
    assert not clock.is_old(np.array([arrival.device for arrival in arrivals])).any()


def test_devices_stay_as_fast_as_they_are() -> None:
    """Speed belongs to a device: the same in every round, with the stated spread over the fleet."""
    clock = FleetClock(FleetBehaviour(speed_spread=0.6), devices=DEVICES, seed=4)
    seconds = clock.session_seconds(EVERYBODY)
    assert np.array_equal(seconds, clock.session_seconds(EVERYBODY))
    assert np.median(seconds) == pytest.approx(60.0, rel=0.05)
    assert np.std(np.log(seconds)) == pytest.approx(0.6, rel=0.05)
    first = list(islice(FleetClock(FleetBehaviour(), devices=9, seed=4).stream(), 5))
    assert first == list(islice(FleetClock(FleetBehaviour(), devices=9, seed=4).stream(), 5))


def test_a_behaviour_that_cannot_be_is_refused() -> None:
    """A share above 1 is named."""
    with pytest.raises(SimulationError, match="eligible_share"):
        FleetBehaviour(eligible_share=1.2)
