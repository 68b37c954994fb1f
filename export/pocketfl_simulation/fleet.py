"""How phones behave, on a virtual clock: when they ask, who may train, how long it takes, who is lost.

A month of a fleet takes no longer than its training: times are drawn, nobody waits. Rounds and streams
of reports come from the same devices, so synchronous and buffered aggregation can be compared.

Defaults are published figures: four times as many devices at night as by day, and 6 to 10 % of
participants lost (Bonawitz et al. 2019, "Towards Federated Learning at Scale", arXiv 1902.01046); about
22 % of clients within strict conditions (Wang et al. 2023, "FLINT", arXiv 2302.12862).
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pocketfl_simulation.errors import SimulationError

HOUR: Final = 3600.0
DAY: Final = 24 * HOUR
_GRID: Final = 60.0
"""Seconds between the points at which availability is tabulated."""


@dataclass(frozen=True, kw_only=True)
class FleetBehaviour:
    """What decides when a device's report arrives.

    Attributes
    ----------
    check_ins_per_day : float
        Of a device, on average.
    night_to_day : float
        How many times as many devices ask at the peak as twelve hours from it.
    peak_hour : float
        Of the day, 0 to 24.
    eligible_share : float
        Of check-ins at which the device's conditions hold.
    drop_out : float
        Share of sessions that end without a report.
    session_seconds : float
        From check-in to report on a device of median speed.
    speed_spread : float
        Standard deviation of the logarithm of that time over devices.
    old_share : float
        Of devices whose app is too old for the plan: they never take part.
    by_hour : tuple of float or None
        How many devices ask in each of the 24 hours from midnight on, relative to each other, instead
        of what ``night_to_day`` and ``peak_hour`` say.
    """

    check_ins_per_day: float = 24.0
    night_to_day: float = 4.0
    peak_hour: float = 2.0
    eligible_share: float = 0.22
    drop_out: float = 0.08
    session_seconds: float = 60.0
    speed_spread: float = 0.6
    old_share: float = 0.15
    by_hour: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        shares = (self.eligible_share, 1 - self.drop_out, 1 - self.old_share)
        if not all(0 < share <= 1 for share in shares):
            raise SimulationError("eligible_share is above 0; drop_out and old_share below 1")
        if self.check_ins_per_day <= 0 or self.night_to_day < 1 or self.session_seconds <= 0:
            raise SimulationError(
                "check_ins_per_day and session_seconds are above 0, night_to_day at least 1"
            )
        if self.speed_spread < 0:
            raise SimulationError("speed_spread is at least 0")
        hours = self.by_hour
        if hours is not None and (len(hours) != 24 or min(hours) < 0 or max(hours) == 0):
            raise SimulationError("by_hour has 24 numbers from 0 on, and one above 0")

    def rate(self, at: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return eligible check-ins of a device per second, at times in seconds from midnight."""
        mean = self.eligible_share * self.check_ins_per_day / DAY
        if self.by_hour is not None:
            hours = np.asarray(self.by_hour, dtype=np.float64)
            found: NDArray[np.float64] = (mean / hours.mean() * hours)[
                (at // HOUR).astype(int) % 24
            ]
            return found
        swing = (self.night_to_day - 1) / (self.night_to_day + 1)
        phase = 2 * math.pi * (at / DAY - self.peak_hour / 24)
        return mean * (1 + swing * np.cos(phase))

    @property
    def peak_rate(self) -> float:
        """The highest rate of the day."""
        if self.by_hour is None:
            return float(self.rate(np.array(self.peak_hour * HOUR)))
        return float(self.rate(np.arange(24, dtype=np.float64) * HOUR).max())


@dataclass(frozen=True, kw_only=True)
class RoundTimes:
    """How a round went on the clock.

    Attributes
    ----------
    devices : ndarray of int64
        Whose reports arrived, in order of arrival.
    opened, closed : float
        Virtual seconds.
    lost : dict of str to int
        The others: ``old`` apps, ``away`` without an eligible check-in, ``dropped``, ``late``.
    """

    devices: NDArray[np.int64]
    opened: float
    closed: float
    lost: dict[str, int]


@dataclass(frozen=True, order=True)
class Arrival:
    """A report of a stream.

    Attributes
    ----------
    finished, started : float
        Virtual seconds: of its arrival, and of the check-in at which it got the model of that time.
    device : int
        Whose.
    """

    finished: float
    started: float
    device: int


class FleetClock:
    """A fleet on a virtual clock.

    Parameters
    ----------
    behaviour : FleetBehaviour
        Of its devices.
    devices : int
        How many.
    seed : int
        Of everything drawn.
    start_hour : float
        Of the day at which the clock starts.
    """

    def __init__(
        self, behaviour: FleetBehaviour, *, devices: int, seed: int, start_hour: float = 12.0
    ) -> None:
        self.behaviour: Final = behaviour
        self.now = start_hour * HOUR
        self._devices = devices
        self._seed = seed
        self._generator = np.random.default_rng([seed, 3])

    def run_round(self, cohort: NDArray[np.int64], *, deadline: float) -> RoundTimes:
        """Let a cohort report until a deadline; the clock then stands where the round closed.

        Parameters
        ----------
        cohort : ndarray of int64
            Devices whose coin said yes.
        deadline : float
            In seconds from now; the round closes earlier once nobody is left to wait for.
        """
        opened, end = self.now, self.now + deadline
        old = self.is_old(cohort)
        begins = self._first_check_in(len(cohort), opened, end)
        finishes = begins + self.session_seconds(cohort)
        away = ~old & (begins >= end)
        dropped = ~old & ~away & (self._generator.random(len(cohort)) < self.behaviour.drop_out)
        late = ~old & ~away & ~dropped & (finishes > end)
        arrived = np.flatnonzero(~(old | away | dropped | late))
        order = arrived[np.argsort(finishes[arrived], kind="stable")]
        # A server cannot tell an old or absent device from a slow one: only a full round ends early.
        full = len(order) == len(cohort) > 0
        self.now = float(finishes[order[-1]]) if full else end
        lost = {"old": old, "away": away, "dropped": dropped, "late": late}
        return RoundTimes(
            devices=cohort[order],
            opened=opened,
            closed=self.now,
            lost={name: int(which.sum()) for name, which in lost.items()},
        )

    def stream(
        self, *, probability: float = 1.0, at_once: int | None = None, days: float = math.inf
    ) -> Iterator[Arrival]:
        """Yield reports in order of arrival, for aggregation without rounds.

        Parameters
        ----------
        probability : float
            With which a device trains at an eligible check-in.
        at_once : int, optional
            Most devices that train at a time; who asks meanwhile is turned away.
        days : float
            After which nobody checks in any more; by default there is no end.
        """
        peak = self.behaviour.peak_rate
        total = peak * self._devices * probability
        under_way: list[Arrival] = []
        at = self.now
        end = at + days * DAY
        while at < end:
            # Thinning (Lewis and Shedler 1979): candidates at the peak's rate, each kept by chance.
            at += float(self._generator.exponential(1 / total))
            while under_way and under_way[0].finished <= at:
                arrival = heapq.heappop(under_way)
                self.now = arrival.finished
                yield arrival
            kept = self._generator.random() * peak < float(self.behaviour.rate(np.array(at)))
            device = np.array([self._generator.integers(self._devices)])
            dropped = self._generator.random() < self.behaviour.drop_out
            free = at_once is None or len(under_way) < at_once
            if kept and free and not dropped and not self.is_old(device)[0]:
                finished = at + float(self.session_seconds(device)[0])
                heapq.heappush(under_way, Arrival(finished, at, int(device[0])))

    def is_old(self, devices: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return whether each device's app is too old; the same whenever it is asked."""
        return self._uniform(devices, 1) < self.behaviour.old_share

    def session_seconds(self, devices: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return how long each device takes from check-in to report; the same whenever it is asked."""
        # Box and Muller (1958): a normal number of two uniform ones.
        first, second = self._uniform(devices, 2), self._uniform(devices, 3)
        normal = np.sqrt(-2 * np.log1p(-first)) * np.cos(2 * math.pi * second)
        seconds: NDArray[np.float64] = np.exp(self.behaviour.speed_spread * normal)
        return seconds * self.behaviour.session_seconds

    def _first_check_in(self, count: int, since: float, until: float) -> NDArray[np.float64]:
        """Return when each of some devices first asks while it is eligible; infinite if it does not."""
        grid = np.append(np.arange(since, until, _GRID), until)
        middles = (grid[:-1] + grid[1:]) / 2
        expected = np.append(0.0, np.cumsum(self.behaviour.rate(middles) * np.diff(grid)))
        wanted = self._generator.exponential(size=count)
        found: NDArray[np.float64] = np.interp(wanted, expected, grid, right=np.inf)
        return found

    def _uniform(self, devices: NDArray[np.int64], stream: int) -> NDArray[np.float64]:
        """Return a number in [0, 1) that belongs to a device: SplitMix64 (Steele et al. 2014) of it."""
        with np.errstate(over="ignore"):
            mixed = devices.astype(np.uint64) * np.uint64(4) + np.uint64(stream)
            mixed += np.uint64(self._seed % 2**32) << np.uint64(32)
            mixed = (mixed + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
            mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            mixed ^= mixed >> np.uint64(31)
        return (mixed >> np.uint64(11)).astype(np.float64) * 2.0**-53
