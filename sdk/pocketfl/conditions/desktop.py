"""Signals of Linux, macOS and Windows, through psutil and, on Linux, the system bus."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from pocketfl.conditions.signals import Signals, Thermal
from pocketfl.conditions.system_bus import BusSignals, read_system_bus
from pocketfl.errors import SignalsUnavailableError

# Limits outside this range (degrees Celsius) are placeholders that drivers report.
_PLAUSIBLE: Final = (40.0, 125.0)
# How far below a sensor's own limit a status begins, in kelvin.
_MODERATE_BELOW: Final = 5.0
_LIGHT_BELOW: Final = 15.0


class DesktopSignals:
    """Reads what a desktop or a server tells about itself.

    =============  =============================================================================
    battery        psutil; unknown without a battery
    thermal        Linux: the sensor nearest to its own limit, see :func:`thermal_status`
    metered        Linux: NetworkManager
    idle           Linux: logind's hint
    power save     Linux: the active power profile
    free storage   of the file system that holds ``path``
    free memory    psutil's "available"; a container's own limit is not seen
    =============  =============================================================================

    All else is unknown.

    Parameters
    ----------
    path : str or Path
        The store, or the folder that it will be in.

    Raises
    ------
    SignalsUnavailableError
        If psutil is not installed.
    """

    def __init__(self, *, path: str | Path) -> None:
        try:
            import psutil
        except ImportError as error:
            raise SignalsUnavailableError(
                f"psutil cannot be imported ({error}): pip install psutil, or give the device a "
                "signal provider of your own"
            ) from error
        self._psutil = psutil
        self._path = Path(path)

    def read(self) -> Signals:
        """Look at the machine now; takes some milliseconds."""
        level, charging = self._battery()
        bus = read_system_bus() if sys.platform == "linux" else BusSignals()
        return Signals(
            battery_level=level,
            charging=charging,
            thermal=self._thermal(),
            metered=bus.metered,
            idle=bus.idle,
            power_save=bus.power_save,
            free_storage_bytes=self._free_storage(),
            free_memory_bytes=self._free_memory(),
        )

    # psutil reads files of the kernel, which come and go with the hardware and, in some containers,
    # have no content: it then raises errors of the system, of values or of keys.
    _ERRORS: Final = (OSError, ValueError, KeyError, IndexError, AttributeError, RuntimeError)

    def _battery(self) -> tuple[float | None, bool | None]:
        try:
            battery = self._psutil.sensors_battery()
        except self._ERRORS:
            return None, None
        if battery is None:
            return None, None
        # Some firmware counts a little beyond full.
        return min(max(battery.percent / 100, 0.0), 1.0), battery.power_plugged

    def _thermal(self) -> Thermal | None:
        if not hasattr(self._psutil, "sensors_temperatures"):  # macOS and Windows.
            return None
        try:
            sensors = self._psutil.sensors_temperatures()
        except self._ERRORS:
            return None
        readings = [(s.current, s.high, s.critical) for found in sensors.values() for s in found]
        return thermal_status(readings)

    def _free_storage(self) -> int | None:
        folder = self._path
        try:
            while not folder.exists() and folder != folder.parent:
                folder = folder.parent
            return shutil.disk_usage(folder).free
        except OSError:
            return None

    def _free_memory(self) -> int | None:
        try:
            return int(self._psutil.virtual_memory().available)
        except self._ERRORS:
            return None


def thermal_status(
    readings: Iterable[tuple[float | None, float | None, float | None]],
) -> Thermal | None:
    """Turn temperatures into Android's scale, by the limits that the sensors themselves state.

    ``critical`` from the critical limit on, ``severe`` from the high limit on, ``moderate`` from 5 K
    and ``light`` from 15 K below it. A desktop's processor is built to run close to its limit, so this
    is later than a phone would say.

    Parameters
    ----------
    readings : iterable of (current, high, critical)
        In degrees Celsius; None where a sensor does not say.

    Returns
    -------
    Thermal or None
        Of the hottest sensor; None when no sensor has a plausible limit.
    """
    statuses = [
        status
        for current, high, critical in readings
        if current is not None and (status := _sensor_status(current, high, critical)) is not None
    ]
    return max(statuses, default=None)


def _sensor_status(current: float, high: float | None, critical: float | None) -> Thermal | None:
    high, critical = _plausible(high), _plausible(critical)
    limit = high if high is not None else critical
    if limit is None:
        return None
    if critical is not None and current >= critical:
        return Thermal.CRITICAL
    for status, from_ in (
        (Thermal.SEVERE, limit),
        (Thermal.MODERATE, limit - _MODERATE_BELOW),
        (Thermal.LIGHT, limit - _LIGHT_BELOW),
    ):
        if current >= from_:
            return status
    return Thermal.NONE


def _plausible(limit: float | None) -> float | None:
    return limit if limit is not None and _PLAUSIBLE[0] <= limit <= _PLAUSIBLE[1] else None
