"""What a fleet needs, computed from the figures of ``python -m benchmarks.scale --json``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

DAY: Final = 86_400.0


@dataclass(frozen=True, kw_only=True)
class Habits:
    """What is assumed of devices and machines; all of it is said on the page.

    Attributes
    ----------
    check_ins, reports : float
        Of one training device a day.
    looks : float
        Of one inferring device a day, for a new version.
    peak : float
        Busiest hour over the mean: by day four times as many devices are awake as by night.
    busy : float
        Part of its time that a core is planned to work.
    gateway_cores : int
        Cores that one gateway process uses.
    """

    check_ins: float = 2.0
    reports: float = 1.0
    looks: float = 1.0
    peak: float = 3.0
    busy: float = 0.5
    gateway_cores: int = 1


@dataclass(frozen=True, kw_only=True)
class Part:
    """One thing that a training fleet needs.

    Attributes
    ----------
    name, unit : str
        What it is, and what one of it is.
    per_second : float
        What is asked of it in the busiest hour.
    capacity : float
        What one of it takes in a second, at the planned business.
    splits : bool
        Whether more of it can be added.
    """

    name: str
    unit: str
    per_second: float
    capacity: float
    splits: bool

    @property
    def needed(self) -> float:
        """How many are needed."""
        return self.per_second / self.capacity

    def largest_fleet(self, devices: float) -> float:
        """Return the number of devices for which one is enough, given what so many ask."""
        return devices / self.needed


def training_parts(
    figures: dict[str, Any], *, devices: float, habits: Habits | None = None
) -> list[Part]:
    """Return what a training fleet needs, the part that one machine runs out of first at the top."""
    habits = habits or Habits()
    mean = devices * habits.peak / DAY

    def core(key: str) -> float:
        return float(figures[key]["per_core_second"]) * habits.busy

    parts = [
        Part(
            name="check-ins",
            unit="gateway core",
            per_second=mean * habits.check_ins,
            capacity=core("check_in"),
            splits=True,
        ),
        Part(
            name="reports taken in",
            unit="gateway core",
            per_second=mean * habits.reports,
            capacity=core("report"),
            splits=True,
        ),
        Part(
            name="parameters, without a CDN",
            unit="gateway core",
            per_second=mean * habits.reports,
            capacity=core("parameters_download"),
            splits=True,
        ),
        Part(
            name="reports stored, opened, checked and summed",
            unit="trusted-tier core",
            per_second=mean * habits.reports,
            capacity=float(figures["trusted_reports_per_core_second"]) * habits.busy,
            splits=True,
        ),
        Part(
            name="check-ins and reports written, one after the other",
            unit="database",
            per_second=mean * (habits.check_ins + habits.reports),
            capacity=min(figures["checkins_per_second"], figures["reports_per_second"])
            * habits.busy,
            splits=False,
        ),
    ]
    return sorted(parts, key=lambda part: part.largest_fleet(devices))


def inferring(
    figures: dict[str, Any], *, devices: float, habits: Habits | None = None
) -> dict[str, float]:
    """Return what devices ask that only predict: looks a second, gateway cores, bytes a day."""
    habits = habits or Habits()
    looks = devices * habits.looks * habits.peak / DAY
    return {
        "looks_per_second": looks,
        "gateway_cores": looks / (figures["notices"]["per_core_second"] * habits.busy),
        "terabytes_per_version": devices * figures["parameters"] * 4 / 1e12,
        "terabytes_per_plan": devices * figures["plan_bytes"] / 1e12,
    }
