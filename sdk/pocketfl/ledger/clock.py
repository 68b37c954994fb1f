"""The ledger's own time, which never runs backwards and never faster than a clock can vouch for.

Windows that run on the wall clock would open whenever somebody sets it forward. So the ledger keeps
a time of its own. Within one boot of the device it advances by the uptime, which nobody can set.
Across boots, or where no uptime is known, it advances by the wall clock but by at most a day at a
time, and what the wall clock takes back is owed: the ledger's time stands still until it has been
made up for. A device that was off for a week is therefore a little slow to free its budget, and
never too quick by more than a day, however often the clock jumps to and fro.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

DAY: Final = 86_400.0
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
        step, owed = 0.0, min(DAY, last.owed + last.wall - wall)
    else:
        credit = min(DAY, wall - last.wall)
        paid = min(credit, last.owed)
        step, owed = credit - paid, last.owed - paid
    return Instant(time=last.time + step, wall=wall, uptime=uptime, owed=owed)
