"""Conditions as data: what a plan asks of the device's state, and how an app tightens it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Final, Literal, Self, TypeAlias, get_args

from pocketfl.conditions.signals import Thermal

ThermalName: TypeAlias = Literal[
    "none", "light", "moderate", "severe", "critical", "emergency", "shutdown"
]
WhenUnknown: TypeAlias = Literal["allow", "refuse"]
"""What a condition says when its signal is unknown."""

MEBIBYTE: Final = 2**20
MAX_BYTES: Final = 2**50


@dataclass(frozen=True, kw_only=True, order=True)
class HourWindow:
    """A part of every day by the device's local clock; may go over midnight.

    Attributes
    ----------
    start : float
        First hour, 0 up to but not 24: 22.5 is half past ten at night.
    end : float
        Hour at which it is over, above 0 and at most 24; below ``start`` it is the next morning's.
    """

    start: float
    end: float

    def __post_init__(self) -> None:
        if not 0 <= self.start < 24:
            raise ValueError(f"a window starts at hour 0 up to but not 24, not at {self.start}")
        if not 0 < self.end <= 24:
            raise ValueError(f"a window ends at an hour above 0 and at most 24, not at {self.end}")
        if self.start == self.end:
            raise ValueError(
                f"a window from {self.start} to {self.end} is empty: for the whole day, leave it out"
            )

    @property
    def hours(self) -> float:
        """How long it is open per day."""
        return (self.end - self.start) % 24 or 24.0

    def contains(self, hour: float) -> bool:
        """Return whether an hour of the day, 0 up to but not 24, is inside."""
        return (hour - self.start) % 24 < self.hours

    def __str__(self) -> str:
        return f"{_clock_time(self.start)}-{_clock_time(self.end)}"


def _clock_time(hour: float) -> str:
    minutes = round(hour * 60)
    return f"{minutes // 60:02d}:{minutes % 60:02d}"


@dataclass(frozen=True, kw_only=True)
class UnknownSpec:
    """What each condition says when the device does not know; only asked where there is a condition.

    What is required by default lets the unknown pass, because a desktop without a battery, thermal
    sensors or a network service would never train otherwise. What a plan asks for on purpose
    (charging, idle) does not. Storage and memory can be read everywhere, so that not knowing them is a
    fault.

    Attributes
    ----------
    battery_level, charging, thermal, metered, idle, power_save, free_storage, free_memory : str
        ``allow`` or ``refuse``.
    """

    battery_level: WhenUnknown = "allow"
    charging: WhenUnknown = "refuse"
    thermal: WhenUnknown = "allow"
    metered: WhenUnknown = "allow"
    idle: WhenUnknown = "refuse"
    power_save: WhenUnknown = "allow"
    free_storage: WhenUnknown = "refuse"
    free_memory: WhenUnknown = "refuse"

    def __post_init__(self) -> None:
        for item in dataclasses.fields(self):
            value = getattr(self, item.name)
            if value not in get_args(WhenUnknown):
                raise ValueError(f"{item.name} is {value!r}; when unknown, 'allow' or 'refuse'")

    def tightened(self, other: UnknownSpec) -> UnknownSpec:
        """Refuse where either refuses."""
        return UnknownSpec(
            **{
                item.name: "refuse"
                if "refuse" in (getattr(self, item.name), getattr(other, item.name))
                else "allow"
                for item in dataclasses.fields(self)
            }
        )


@dataclass(frozen=True, kw_only=True)
class ConditionSpec:
    """What the device's state must be, before training and during it.

    Attributes
    ----------
    min_battery_level : float
        0 to 1, on the charger or not; 0 for none.
    require_charging : bool
        On external power.
    max_thermal : str
        The hottest status at which training goes on: ``light`` stops at moderate, ``shutdown`` never.
    require_unmetered : bool
        Not on a network that is paid for by volume.
    require_idle : bool
        Nobody is using the device.
    refuse_power_save : bool
        Not while the device saves energy.
    min_free_storage_bytes, min_free_memory_bytes : int
        In bytes; 0 for none.
    windows : tuple of HourWindow
        The local time must be inside each of them; empty for the whole day.
    when_unknown : UnknownSpec
        What each of them says when the device does not know.

    Raises
    ------
    ValueError
        Naming the field that is out of bounds.
    """

    min_battery_level: float = 0.30
    require_charging: bool = False
    max_thermal: ThermalName = "light"
    require_unmetered: bool = True
    require_idle: bool = False
    refuse_power_save: bool = True
    min_free_storage_bytes: int = 200 * MEBIBYTE
    min_free_memory_bytes: int = 128 * MEBIBYTE
    windows: tuple[HourWindow, ...] = ()
    when_unknown: UnknownSpec = field(default_factory=UnknownSpec)

    def __post_init__(self) -> None:
        if not 0 <= self.min_battery_level <= 1:
            raise ValueError(f"min_battery_level is {self.min_battery_level}; it must be 0 to 1")
        if self.max_thermal not in get_args(ThermalName):
            raise ValueError(
                f"max_thermal is {self.max_thermal!r}; it must be one of "
                f"{', '.join(get_args(ThermalName))}"
            )
        for name in ("min_free_storage_bytes", "min_free_memory_bytes"):
            value = getattr(self, name)
            if not 0 <= value <= MAX_BYTES:
                raise ValueError(f"{name} is {value}; it must be 0 to {MAX_BYTES}")

    @classmethod
    def none(cls) -> Self:
        """Return the conditions that every device meets: to tighten with them changes nothing."""
        return cls(
            min_battery_level=0.0,
            max_thermal="shutdown",
            require_unmetered=False,
            refuse_power_save=False,
            min_free_storage_bytes=0,
            min_free_memory_bytes=0,
            when_unknown=UnknownSpec(
                charging="allow", idle="allow", free_storage="allow", free_memory="allow"
            ),
        )

    def describe(self) -> tuple[str, ...]:
        """Return what is asked for, one phrase each, for people; empty when nothing is."""
        phrases = (
            (self.min_battery_level > 0, f"battery >= {100 * self.min_battery_level:.3g} %"),
            (self.require_charging, "charging"),
            (self.highest_thermal < Thermal.SHUTDOWN, f"thermal at most {self.max_thermal}"),
            (self.require_unmetered, "unmetered network"),
            (self.require_idle, "idle"),
            (self.refuse_power_save, "power save off"),
            (
                self.min_free_storage_bytes > 0,
                f"free storage >= {self.min_free_storage_bytes / MEBIBYTE:.4g} MiB",
            ),
            (
                self.min_free_memory_bytes > 0,
                f"free memory >= {self.min_free_memory_bytes / MEBIBYTE:.4g} MiB",
            ),
            *((True, f"local time {window}") for window in self.windows),
        )
        return tuple(phrase for asked, phrase in phrases if asked)

    @property
    def highest_thermal(self) -> Thermal:
        """The hottest status at which training goes on, as a number."""
        return Thermal[self.max_thermal.upper()]

    def tightened(self, other: ConditionSpec) -> ConditionSpec:
        """Return the conditions that hold exactly when both hold.

        The device combines a plan's conditions with its app's this way, so that neither can loosen the
        other's.

        Parameters
        ----------
        other : ConditionSpec
            Fields that should add nothing are those of :meth:`none`; an app writes
            ``dataclasses.replace(ConditionSpec.none(), require_charging=True)`` to ask for one thing
            more.

        Returns
        -------
        ConditionSpec
            The stricter of each field, all windows of both, and a refusal where either refuses.
        """
        return ConditionSpec(
            min_battery_level=max(self.min_battery_level, other.min_battery_level),
            require_charging=self.require_charging or other.require_charging,
            max_thermal=min(self, other, key=lambda spec: spec.highest_thermal).max_thermal,
            require_unmetered=self.require_unmetered or other.require_unmetered,
            require_idle=self.require_idle or other.require_idle,
            refuse_power_save=self.refuse_power_save or other.refuse_power_save,
            min_free_storage_bytes=max(self.min_free_storage_bytes, other.min_free_storage_bytes),
            min_free_memory_bytes=max(self.min_free_memory_bytes, other.min_free_memory_bytes),
            windows=tuple(sorted({*self.windows, *other.windows})),
            when_unknown=self.when_unknown.tightened(other.when_unknown),
        )
