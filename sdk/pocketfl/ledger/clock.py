"""The ledger's own time, which never runs backwards and never faster than a clock can vouch for.

Windows that run on the wall clock would open whenever somebody sets it forward. So the ledger keeps
a time of its own. Within one boot of the device it advances by the uptime, which nobody can set.
Across boots, or where no uptime is known, it advances by the wall clock, but by a day at most however
far that jumped; what the wall clock takes back is owed (30 days at most), and while something is owed
the ledger's time stands still. So a device that was off for a week is slow to free its budgets, a
jump forward frees a day's at most, and jumping to and fro frees nothing more.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

from pocketfl.database import Database

DAY: Final = 86_400.0
MOST_OWED: Final = 30 * DAY
# A look leaves the file alone unless the clock moved by this much, so that looking costs no write.
_SLACK: Final = 3600.0
_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True, kw_only=True)
class Uptime:
    """How long the device has been up.

    Attributes
    ----------
    boot : str
        Names this boot; another one after every restart of the device.
    seconds : float
        Since then, sleep included.
    """

    boot: str
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Instant:
    """What the clocks showed when the ledger last looked.

    Attributes
    ----------
    time : float
        The ledger's own time in seconds; 0 when the ledger was new.
    wall : float
        Unix time in seconds.
    uptime : Uptime or None
        Where the platform has one.
    owed : float
        Seconds that the ledger's time still has to stand still.
    """

    time: float
    wall: float
    uptime: Uptime | None = None
    owed: float = 0.0


@cache
def _boot_id() -> str | None:
    try:
        return _BOOT_ID.read_text(encoding="ascii").strip() or None
    except (OSError, UnicodeDecodeError):
        return None


def system_uptime() -> Uptime | None:
    """Return this device's uptime, or None where the platform does not tell which boot it is."""
    clock = getattr(time, "CLOCK_BOOTTIME", None)
    boot = _boot_id()
    if clock is None or boot is None:
        return None
    return Uptime(boot=boot, seconds=time.clock_gettime(clock))


def advance(last: Instant | None, *, wall: float, uptime: Uptime | None) -> Instant:
    """Return the present instant.

    Parameters
    ----------
    last : Instant or None
        The one before; None when the ledger is new.
    wall : float
        Unix time in seconds, as far as it can be believed.
    uptime : Uptime or None
        Of the same moment.
    """
    if last is None:
        return Instant(time=0.0, wall=wall, uptime=uptime)
    before = last.uptime
    if before and uptime and before.boot == uptime.boot and uptime.seconds >= before.seconds:
        step, owed = uptime.seconds - before.seconds, last.owed
    elif wall < last.wall:
        step, owed = 0.0, min(MOST_OWED, last.owed + last.wall - wall)
    else:
        credit = min(DAY, wall - last.wall)
        paid = min(credit, last.owed)
        step, owed = credit - paid, last.owed - paid
    return Instant(time=last.time + step, wall=wall, uptime=uptime, owed=owed)


class LedgerClock:
    """The ledger's time, kept in its file.

    Parameters
    ----------
    database : Database
        With the ledger's tables.
    clock : callable
        Unix time in seconds.
    uptime : callable, optional
        By default the system's where ``clock`` is the system's clock, else none.
    """

    def __init__(
        self,
        database: Database,
        *,
        clock: Callable[[], float],
        uptime: Callable[[], Uptime | None] | None,
    ) -> None:
        self._database = database
        self._clock = clock
        if uptime is None:
            uptime = system_uptime if clock is time.time else _no_uptime
        self._uptime = uptime

    def tick(self, connection: sqlite3.Connection) -> Instant:
        """Return the present instant and keep it; within a transaction."""
        _, now = self._read()
        up = now.uptime
        connection.execute(
            "INSERT OR REPLACE INTO ledger_clock(id, time, wall, boot, uptime, owed) "
            "VALUES(1, ?, ?, ?, ?, ?)",
            (now.time, now.wall, up.boot if up else None, up.seconds if up else None, now.owed),
        )
        return now

    def look(self) -> float:
        """Return the ledger's time; keeps it only now and then."""
        last, now = self._read()
        if last is None or abs(now.wall - last.wall) > _SLACK:
            with self._database.transaction() as connection:
                now = self.tick(connection)
        return now.time

    def _read(self) -> tuple[Instant | None, Instant]:
        rows = self._database.query("SELECT time, wall, boot, uptime, owed FROM ledger_clock")
        last = None
        if rows:
            then, wall, boot, seconds, owed = rows[0]
            uptime = None if boot is None else Uptime(boot=boot, seconds=seconds)
            last = Instant(time=then, wall=wall, uptime=uptime, owed=owed)
        return last, advance(last, wall=self._clock(), uptime=self._uptime())


def _no_uptime() -> None:
    return None
