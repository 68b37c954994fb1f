"""Measures what a session uses: processor time, elapsed time, memory, bytes and energy.

A reading of the clocks takes about a microsecond, so it may be had after every batch; memory and
battery are looked at only so often.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from typing import Final, Literal

from pocketfl.budgets.amounts import Amounts
from pocketfl.budgets.battery import BatteryCounter, BatteryReading
from pocketfl.budgets.energy import EnergyModel

_STATM: Final = "/proc/self/statm"
_STATUS: Final = "/proc/self/status"


def resident_bytes() -> int | None:
    """Return the resident memory of this process, or None where the platform has no procfs."""
    try:
        # Not through a file object, which takes ten times as long; sessions look several times.
        descriptor = os.open(_STATM, os.O_RDONLY)
        try:
            pages = os.read(descriptor, 256).split()[1]
        finally:
            os.close(descriptor)
        return int(pages) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError, ValueError, AttributeError):
        return None


def highest_resident_bytes(*, of_program: bool = False) -> int | None:
    """Return the most resident memory that this process ever had, or None where that is unknown.

    Linux hands on to a program what the process that started it had. With ``of_program`` that is left
    out, at a tenth of a millisecond.
    """
    if of_program:
        try:
            with open(_STATUS, "rb") as status:  # noqa: PTH123 - as above
                for line in status:
                    if line.startswith(b"VmHWM:"):
                        return int(line.split()[1]) * 1024
        except (OSError, IndexError, ValueError):
            pass
    try:
        import resource
    except ImportError:  # Windows
        return None
    highest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return highest if sys.platform == "darwin" else highest * 1024


class Meter:
    """Measures from its creation on.

    Parameters
    ----------
    scope : {"process", "thread"}
        Whose processor time counts: ``process`` counts every thread, those of a runtime's pool and
        of the app alike; ``thread`` only the one that makes and reads the meter, which is right
        where many devices share a process and their runtimes use one thread each.
    energy : EnergyModel
        Estimates joules where they cannot be measured.
    battery : BatteryCounter, optional
        Measures joules while the device is not being charged.
    memory_every_seconds, battery_every_seconds : float
        How often memory and battery are looked at, at most.
    clock : callable
        Monotonic time in seconds.

    Notes
    -----
    Memory is what the process has beyond what it had when the meter was made. A peak above all that
    the process ever had is found exactly (``ru_maxrss``); a lower one is found by looking from time
    to time.
    """

    def __init__(
        self,
        *,
        scope: Literal["process", "thread"] = "process",
        energy: EnergyModel | None = None,
        battery: BatteryCounter | None = None,
        memory_every_seconds: float = 0.25,
        battery_every_seconds: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._cpu = time.process_time if scope == "process" else time.thread_time
        self._energy = energy if energy is not None else EnergyModel()
        self._battery = battery
        self._clock = clock
        self._memory_every = memory_every_seconds
        self._battery_every = battery_every_seconds
        self._up = self._up_metered = self._down_metered = self._down_unmetered = 0
        self._storage = 0
        self._cpu_began = self._cpu()
        self._began = self._memory_at = self._battery_at = clock()
        self._memory_began = resident_bytes() or 0
        self._highest_before = highest_resident_bytes() or 0
        self._peak = 0
        self._full: BatteryReading | None = battery.read() if battery is not None else None
        self._drained: float | None = None
        self._joules = 0.0

    def add_bytes(self, *, up: int = 0, down: int = 0, metered: bool | None) -> None:
        """Count bytes that went over the network.

        Parameters
        ----------
        up, down : int
            Bytes sent and received.
        metered : bool or None
            Whether the link costs money; None, unknown, counts as metered.
        """
        self._up += up
        if metered is False:
            self._down_unmetered += down
        else:
            self._up_metered += up
            self._down_metered += down

    def keep_bytes(self, count: int) -> None:
        """State how many bytes the session keeps on disk now."""
        self._storage = max(self._storage, count)

    @property
    def joules_measured(self) -> bool:
        """Whether the battery's counter gave the joules, rather than the model."""
        return self._drained is not None

    def read(self, *, thorough: bool = False) -> Amounts:
        """Return what was used since the meter was made.

        Parameters
        ----------
        thorough : bool
            Look at memory and battery even if that was done a moment ago.
        """
        now = self._clock()
        if thorough or now - self._memory_at >= self._memory_every:
            self._memory_at = now
            self._look_at_memory()
        if thorough or now - self._battery_at >= self._battery_every:
            self._battery_at = now
            self._look_at_battery()
        cpu_seconds = max(0.0, self._cpu() - self._cpu_began)
        joules = self._drained
        if joules is None:
            joules = self._energy.joules(
                cpu_seconds=cpu_seconds,
                bytes_up=self._up,
                bytes_up_metered=self._up_metered,
                bytes_down_metered=self._down_metered,
                bytes_down_unmetered=self._down_unmetered,
            )
        # What was counted stays counted when the source changes, as when a charger is plugged in.
        self._joules = max(self._joules, joules)
        return Amounts(
            cpu_seconds=cpu_seconds,
            wall_seconds=max(0.0, now - self._began),
            bytes_up=self._up,
            bytes_up_metered=self._up_metered,
            bytes_down_metered=self._down_metered,
            bytes_down_unmetered=self._down_unmetered,
            joules=self._joules,
            peak_memory_bytes=self._peak,
            storage_bytes=self._storage,
        )

    def _look_at_memory(self) -> None:
        now = resident_bytes() or 0
        highest = highest_resident_bytes() or 0
        if highest > self._highest_before:
            now = max(now, highest)
        if self._memory_began:
            self._peak = max(self._peak, now - self._memory_began)

    def _look_at_battery(self) -> None:
        if self._battery is None or self._full is None:
            return
        reading = self._battery.read()
        if reading is None or not (reading.discharging and self._full.discharging):
            self._full = None  # once charged in between, a difference means nothing any more
            self._drained = None
            return
        drained = self._full.joules - reading.joules
        # Less than one step of the counter is no measurement.
        self._drained = drained if drained > 0 else None
