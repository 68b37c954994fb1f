"""Asynchronous rounds of a simulated fleet: reports become releases while other devices still train.

Everything is production's here too: what a device learns from the model of its check-in, the weight of
a report that comes late, the grid of the release, its noise and its price.
"""

from __future__ import annotations

import time
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pocketfl.plan.asynchronous import staleness_weight
from pocketfl.runtimes.interface import FloatVector
from pocketfl_server.trusted.accounting import affords
from pocketfl_simulation.data import FleetData
from pocketfl_simulation.errors import SimulationError
from pocketfl_simulation.fleet import DAY, HOUR, Arrival, FleetClock
from pocketfl_simulation.rounds import ExactSum, Simulation, SimulationSettings
from pocketfl_simulation.tasks import SimulationTask

_DRAWS: Final = 2**20
"""More than the reports of a release: what rounds one release's reports rounds no other's."""

_PATIENCE: Final = 30
"""Virtual days after which a release is given up."""
_DAYS: Final = 3650.0


@dataclass(frozen=True, kw_only=True)
class SimulatedRelease:
    """What became of a buffer of reports.

    Attributes
    ----------
    round : int
        Its number.
    hours : float
        On the virtual clock, since the start.
    reports : int
        That it took.
    wasted : int
        Reports since the release before that were too old for any.
    staleness : float
        Mean, in rounds.
    clipped_share : float
        Of the updates that were clipped.
    median_norm : float
        Of the updates before clipping, in the model's units.
    epsilon : float or None
        Spent by all releases so far.
    seconds : float
        That it took to simulate.
    """

    round: int
    hours: float
    reports: int
    wasted: int
    staleness: float
    clipped_share: float
    median_norm: float
    epsilon: float | None
    seconds: float


class BufferedSimulation(Simulation):
    """A task of asynchronous rounds on a fleet in this process; a context manager.

    Parameters
    ----------
    task : SimulationTask
        Whose plan is for asynchronous rounds.
    data : FleetData
        What devices hold.
    clock : FleetClock
        When they report.
    reports_per_release : int
        As the task's, in production.
    at_once : int
        Devices that train at a time, at most.
    settings : SimulationSettings, optional
        How.

    Raises
    ------
    SimulationError
        If the plan is for synchronous rounds, or a release has fewer reports than the plan's floor.
    """

    _is_asynchronous = True

    def __init__(
        self,
        task: SimulationTask,
        data: FleetData,
        clock: FleetClock,
        *,
        reports_per_release: int,
        at_once: int,
        settings: SimulationSettings | None = None,
    ) -> None:
        super().__init__(task, data, settings)
        spec = self._manifest.aggregation.asynchronous
        assert spec is not None  # noqa: S101 - or there would be no simulation
        floor = self._manifest.aggregation.cohort_floor
        if not floor <= reports_per_release < _DRAWS:
            raise SimulationError(
                f"a release of {reports_per_release} reports: give at least the plan's floor, {floor}"
            )
        self._spec = spec
        self._clock = clock
        self._wanted = reports_per_release
        self._arrivals = clock.stream(at_once=at_once, days=_DAYS)
        self._began = clock.now
        self._released_at: list[float] = []
        self._versions: dict[int, FloatVector] = {1: self.parameters}
        self._last: dict[int, int] = {}
        self._heads: dict[int, int] = {}

    def run_releases(self, releases: int) -> Iterator[SimulatedRelease]:
        """Release buffers one after the other, until the plan's budget is spent.

        Parameters
        ----------
        releases : int
            At most so many.
        """
        for number in range(1, releases + 1):
            if not affords(self._manifest, number):
                return
            yield self._release(number)

    def _release(self, number: int) -> SimulatedRelease:
        began = time.perf_counter()
        self._number = number
        devices, wasted = self._fill(number)
        noise = self._pool.submit(self._draw_noise, number)
        total, norms = self._sum_weighted(devices, number)
        late = [number - origin for origin, group in devices.items() for _ in group]
        self._advance(total + noise.result(), number, reports=len(norms))
        self._released_at.append(self._clock.now)
        self._versions[number + 1] = self.parameters
        self._versions.pop(number - self._spec.max_staleness, None)
        return SimulatedRelease(
            round=number,
            hours=(self._clock.now - self._began) / HOUR,
            reports=len(norms),
            wasted=wasted,
            staleness=float(np.mean(late)),
            clipped_share=float((norms > self._bounds.clip_norm).mean()),
            median_norm=float(np.median(norms)),
            epsilon=self.epsilon,
            seconds=time.perf_counter() - began,
        )

    def _fill(self, number: int) -> tuple[dict[int, list[int]], int]:
        """Wait for enough reports; return devices by the round of their check-in, and who was late."""
        devices: dict[int, list[int]] = {}
        count = wasted = 0
        opened = self._clock.now
        while count < self._wanted:
            arrival = next(self._arrivals, None)
            if arrival is None or arrival.finished > opened + _PATIENCE * DAY:
                raise SimulationError(
                    f"release {number} has {count} of {self._wanted} reports after {_PATIENCE} days: "
                    "too few devices may take part again so soon; make releases smaller, or "
                    "min_separation"
                )
            origin = 1 + bisect_right(self._released_at, arrival.started)
            if not self._takes_part(arrival, origin):
                continue
            if number - origin > self._spec.max_staleness:
                wasted += 1
                continue
            devices.setdefault(origin, []).append(arrival.device)
            count += 1
        return devices, wasted

    def _takes_part(self, arrival: Arrival, origin: int) -> bool:
        """Return whether a device may check in at all, as it decides itself, and count that it does."""
        device = arrival.device
        last = self._last.get(device)
        if last is not None and origin - last < self._spec.min_separation:
            return False
        if self._heads.get(device, 0) >= self._manifest.aggregation.max_participations:
            return False
        self._last[device] = origin
        self._heads[device] = self._heads.get(device, 0) + 1
        return True

    def _sum_weighted(
        self, devices: dict[int, list[int]], number: int
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Return the exact sum, each report with the weight of its staleness, and updates' norms."""
        total = np.zeros(self._manifest.report_length, dtype=np.int64)
        norms: list[NDArray[np.float64]] = []
        first = number * _DRAWS
        for origin, group in sorted(devices.items()):
            exact: ExactSum = self.sum_round(
                np.array(group), number=origin, start=self._versions[origin], first=first
            )
            total += exact.total * staleness_weight(number - origin)
            norms.append(exact.norms)
            first += len(group)
        return total, np.concatenate(norms)
