"""A name for this very process, by which another one can tell whether it still runs.

Numbers of processes are given again; together with the time at which the process started they are not.
"""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path
from typing import Final

_PROCESSES: Final = Path("/proc")
_STARTED: Final = 19
"""Place of the start time among the fields of Linux's ``/proc/PID/stat`` that follow the name."""
_ENDED: Final = frozenset({"Z", "X", "x"})
"""States of a process that has ended and is only remembered."""


def process_mark() -> bytes:
    """Return this process's name, such as ``b"4711 1250934"``."""
    return _mark(os.getpid())


@lru_cache(maxsize=1)
def _mark(number: int) -> bytes:
    return f"{number} {_started(number)}".encode()


def is_running(mark: bytes) -> bool:
    """Return whether the process that a mark names still runs; False for what is no mark.

    Parameters
    ----------
    mark : bytes
        From :func:`process_mark`, perhaps of another process of the app; may be damaged.
    """
    number, _, started = mark.decode("ascii", "replace").partition(" ")
    if not (number.isascii() and number.isdecimal() and len(number) < 20 and started):
        return False
    return _started(int(number)) == started


def _started(number: int) -> str | None:
    """Return when a process started, in units that only this machine knows; None if there is none."""
    if _PROCESSES.joinpath("self", "stat").exists():
        try:
            text = _PROCESSES.joinpath(str(number), "stat").read_text()
        except OSError:
            return None
        # The name is in parentheses, and may contain more of them.
        state, *fields = text.rpartition(")")[2].split()
        return None if state in _ENDED else fields[_STARTED - 1]
    import psutil

    try:
        return repr(psutil.Process(number).create_time())
    except psutil.Error:
        return None
