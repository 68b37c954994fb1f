"""Simulated rounds with phones that come and go: what the virtual time and the losses came to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pocketfl_simulation.behaviours import FleetSettings
from pocketfl_simulation.evaluation import Quality
from pocketfl_simulation.fleet import HOUR, FleetClock


@dataclass(frozen=True, kw_only=True)
class Closed:
    """When a round closed, and who did not report.

    Attributes
    ----------
    hours : float
        On the virtual clock, since the start.
    lost : dict of str to int
        Devices by the reason.
    """

    hours: float
    lost: dict[str, int]


class ClockedFleet:
    """The phones of a simulation on their clock, and what is said of them.

    Parameters
    ----------
    settings : FleetSettings
        How they behave.
    devices, seed : int
        How many; of everything drawn.
    target : float, optional
        Quality whose time is wanted.

    Attributes
    ----------
    clock : FleetClock
        Where they are.
    last : Closed or None
        The last round.
    """

    def __init__(
        self, settings: FleetSettings, *, devices: int, seed: int, target: float | None = None
    ) -> None:
        self.clock = FleetClock(
            settings.behaviour, devices=devices, seed=seed, start_hour=settings.start_hour
        )
        self.last: Closed | None = None
        self._began = self.clock.now
        self._deadline = settings.deadline_hours * HOUR
        self._target = target
        self._rounds = self._cohort = self._arrived = 0
        self._lost: dict[str, int] = {}
        self._reached: float | None = None

    def report(self, cohort: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return whose reports arrive, and move the clock to where the round closed."""
        times = self.clock.run_round(cohort, deadline=self._deadline)
        self.last = Closed(hours=self.hours, lost=times.lost)
        self._cohort += len(cohort)
        for reason, count in times.lost.items():
            self._lost[reason] = self._lost.get(reason, 0) + count
        return times.devices

    def note(self, quality: Quality | None, *, reports: int, wasted: int = 0) -> None:
        """Count a round or release, and remember when a model first was as good as the target."""
        self._rounds += 1
        self._arrived += reports
        if wasted:
            self._lost["stale"] = self._lost.get("stale", 0) + wasted
        if quality is None or self._target is None or self._reached is not None:
            return
        if quality.headline >= self._target:
            self._reached = self.hours

    @property
    def hours(self) -> float:
        """Virtual hours since the start."""
        return (self.clock.now - self._began) / HOUR

    def figures(self) -> dict[str, Any]:
        """Return what the virtual time came to."""
        return {
            "virtual_hours": self.hours,
            "rounds_per_day": 24 * self._rounds / max(self.hours, 1e-9),
            "reports": self._arrived,
            "completion_share": self._arrived / self._cohort if self._cohort else None,
            "lost": self._lost,
            "target": self._target,
            "hours_to_target": self._reached,
        }

    def describe(self) -> str:
        """Return the same in words."""
        found = self.figures()
        text = f"virtual time {self.hours:.1f} h: {found['rounds_per_day']:.1f} rounds a day, "
        if (share := found["completion_share"]) is None:
            text += f"{self._arrived:,} reports"
        else:
            text += f"{100 * share:.0f} % of participants reported"
        if self._lost:
            lost = ", ".join(f"{count:,} {reason}" for reason, count in self._lost.items())
            text += f"; lost: {lost}"
        if self._target is None:
            return text
        if self._reached is None:
            return f"{text}\nquality {self._target:g} was not reached"
        return f"{text}\nquality {self._target:g} was reached after {self._reached:.1f} h"
