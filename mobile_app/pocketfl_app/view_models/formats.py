"""Quantities for people."""

from __future__ import annotations

from datetime import datetime


def in_bytes(count: float) -> str:
    """``1.3 kB``, ``12 MB``."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count:.0f} bytes"


def in_seconds(seconds: float) -> str:
    """``0.4 s``, ``12 min``."""
    if seconds >= 7200:
        return f"{seconds / 3600:.3g} h"
    return f"{seconds / 60:.3g} min" if seconds >= 120 else f"{seconds:.2g} s"


def in_joules(joules: float) -> str:
    """``0.05 J``, ``1.2 kJ``."""
    return f"{joules / 1000:.3g} kJ" if joules >= 1000 else f"{joules:.2g} J"


def in_local_time(moment: float) -> str:
    """``24 Nov, 17:20``."""
    return datetime.fromtimestamp(moment).astimezone().strftime("%d %b, %H:%M").lstrip("0")


def plain(number: float) -> str:
    """A number with two digits after the point, or as few as it needs."""
    return f"{number:.2f}".rstrip("0").rstrip(".")
