"""Battery counters, where the platform has them: how much energy is left.

What a counter loses is the whole device's, screen and other apps included, so it bounds a session's
use from above. It says nothing while the device is being charged, and its steps may be coarser than
a session.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from pocketfl.errors import SignalsUnavailableError
from pocketfl.java import load_java, on_android, running_context

if TYPE_CHECKING:
    from android.os import BatteryManager

_JOULES_PER_WATT_HOUR: Final = 3600.0


@dataclass(frozen=True, kw_only=True)
class BatteryReading:
    """One look at the counter.

    Attributes
    ----------
    joules : float
        Energy left in the battery.
    discharging : bool
        Whether nothing flows in, so that a drop of the counter is what was used.
    """

    joules: float
    discharging: bool


class BatteryCounter(Protocol):
    """Where readings come from."""

    def read(self) -> BatteryReading | None:
        """Return the present reading, or None where nothing is known."""
        ...


class SysfsBattery:
    """The counters of Linux's power supply class, all batteries together.

    Parameters
    ----------
    root : str or Path
        The folder with one folder per supply (kernel documentation, ``sysfs-class-power``).
    """

    def __init__(self, root: str | Path = "/sys/class/power_supply") -> None:
        self._root = Path(root)

    def read(self) -> BatteryReading | None:
        """Return the sum over the device's batteries, or None if one of them does not tell."""
        joules, discharging, found = 0.0, True, False
        try:
            supplies = sorted(self._root.iterdir())
        except OSError:
            return None
        for supply in supplies:
            # A mouse's battery is a supply too; its scope is "Device".
            if _text(supply / "type") != "Battery" or _text(supply / "scope") == "Device":
                continue
            energy = _energy_of(supply)
            if energy is None:
                return None
            joules, found = joules + energy, True
            discharging = discharging and _text(supply / "status") == "Discharging"
        return BatteryReading(joules=joules, discharging=discharging) if found else None


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="ascii")[:64].strip()
    except (OSError, UnicodeDecodeError):
        return None


def _number(path: Path) -> float | None:
    text = _text(path)
    return float(text) if text is not None and text.isascii() and text.isdigit() else None


def _energy_of(supply: Path) -> float | None:
    """Return joules: from micro-watt-hours, or micro-ampere-hours at the design or present voltage."""
    energy = _number(supply / "energy_now")
    if energy is not None:
        return energy * 1e-6 * _JOULES_PER_WATT_HOUR
    charge = _number(supply / "charge_now")
    # The present voltage sinks under load, which would look like energy used.
    volts = _number(supply / "voltage_min_design") or _number(supply / "voltage_now")
    if charge is None or volts is None:
        return None
    return charge * 1e-6 * volts * 1e-6 * _JOULES_PER_WATT_HOUR


# Values of BatteryManager.BATTERY_PROPERTY_CHARGE_COUNTER and BATTERY_PROPERTY_ENERGY_COUNTER.
_CHARGE_COUNTER: Final = 1
_ENERGY_COUNTER: Final = 5
_NOMINAL_VOLTS: Final = 3.85
"""Of a lithium-ion cell, for a charge counter alone: the present voltage sinks under load."""


class AndroidBattery:
    """Android's ``BatteryManager``, through pyjnius.

    Types are those of the framework at API 36 (``chaquopy-stubs-android``), so that mypy checks every
    call against it.

    Parameters
    ----------
    manager : android.os.BatteryManager, optional
        A pyjnius object; by default the one of the running activity or service.

    Raises
    ------
    SignalsUnavailableError
        If there is no activity or service.
    """

    def __init__(self, manager: BatteryManager | None = None) -> None:
        self._manager = manager if manager is not None else _battery_manager()

    def read(self) -> BatteryReading | None:
        """Return the energy counter, else the charge counter at a nominal voltage, else None."""
        joules = None
        energy = self._manager.getLongProperty(_ENERGY_COUNTER)
        if energy > 0:  # nanowatt-hours; Long.MIN_VALUE or 0 where the device has no such counter
            joules = energy * 1e-9 * _JOULES_PER_WATT_HOUR
        else:
            charge = self._manager.getIntProperty(_CHARGE_COUNTER)
            if charge > 0:  # microampere-hours; Integer.MIN_VALUE or 0 likewise
                joules = charge * 1e-6 * _NOMINAL_VOLTS * _JOULES_PER_WATT_HOUR
        if joules is None:
            return None
        return BatteryReading(joules=joules, discharging=not self._manager.isCharging())


def _battery_manager() -> BatteryManager:
    java = load_java()
    context = running_context(java.autoclass)
    if context is None:
        raise SignalsUnavailableError(
            "no activity or service of the app is running: make AndroidBattery after it has started, "
            "or pass its BatteryManager"
        )
    manager: BatteryManager = java.cast(
        "android.os.BatteryManager", context.getSystemService("batterymanager")
    )
    return manager


def default_battery() -> BatteryCounter | None:
    """Return this platform's counter, or None where it has none that we can read."""
    if on_android():
        return AndroidBattery()
    if sys.platform == "linux":
        battery = SysfsBattery()
        return battery if battery.read() is not None else None
    return None
