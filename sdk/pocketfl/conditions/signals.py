"""What a device knows about itself; every value may be unknown."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol


class Thermal(IntEnum):
    """How hot the device is, in Android's scale (``PowerManager.THERMAL_STATUS_*``, API 29)."""

    NONE = 0
    LIGHT = 1
    MODERATE = 2
    SEVERE = 3
    CRITICAL = 4
    EMERGENCY = 5
    SHUTDOWN = 6


@dataclass(frozen=True, kw_only=True)
class Signals:
    """One look at the device; ``None`` means that the platform does not say.

    Attributes
    ----------
    battery_level : float or None
        0 (empty) to 1 (full).
    charging : bool or None
        On external power, whether or not the battery takes a charge.
    thermal : Thermal or None
        How hot it is.
    metered : bool or None
        The network in use is paid for by volume.
    idle : bool or None
        Nobody is using the device.
    power_save : bool or None
        The user or the system asked to save energy.
    free_storage_bytes, free_memory_bytes : int or None
        What can still be written beside the store, and allocated without swapping.

    Raises
    ------
    ValueError
        If a value is outside its range.
    """

    battery_level: float | None = None
    charging: bool | None = None
    thermal: Thermal | None = None
    metered: bool | None = None
    idle: bool | None = None
    power_save: bool | None = None
    free_storage_bytes: int | None = None
    free_memory_bytes: int | None = None

    def __post_init__(self) -> None:
        # A NaN fails the comparison too.
        if self.battery_level is not None and not 0 <= self.battery_level <= 1:
            raise ValueError(f"battery_level is {self.battery_level}; it must be 0 to 1, or None")
        for name in ("free_storage_bytes", "free_memory_bytes"):
            value = getattr(self, name)
            if value is not None and value < 0:
                raise ValueError(f"{name} is {value}; it must be at least 0, or None")


class SignalProvider(Protocol):
    """Where signals come from; may be asked from several threads, though never at once."""

    def read(self) -> Signals:
        """Look at the device now.

        A signal that this platform lacks or that fails is ``None``: what that means is the plan's and
        the app's choice, not the provider's.
        """
