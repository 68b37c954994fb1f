"""Why the device does not train now: one shape for conditions, budgets and the schedule."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

__all__ = ["Reason", "combined_retry", "format_wait"]

_OPPOSITE: Final = {">=": "<", "<=": ">", ">": "<=", "<": ">="}


@dataclass(frozen=True, kw_only=True)
class Reason:
    """One requirement that is not met.

    Attributes
    ----------
    condition : str
        What was looked at, in a person's words ("battery", "CPU seconds today").
    observed : str
        What was found, with its unit ("24 %", "unknown").
    required : str
        What would be enough, with its unit and its comparison where there is one (">= 30 %").
    retry_seconds : tuple of (float, float), optional
        Seconds from now, earliest and latest, after which it is worth looking again; None where
        time alone changes nothing.
    """

    condition: str
    observed: str
    required: str
    retry_seconds: tuple[float, float] | None = None

    def __str__(self) -> str:
        # "battery 24 % < 30 %" where both sides are quantities; in words otherwise.
        comparison, _, bound = self.required.partition(" ")
        if comparison in _OPPOSITE and self.observed[:1].isdigit():
            return f"{self.condition} {self.observed} {_OPPOSITE[comparison]} {bound}"
        return f"{self.condition} {self.observed}, required {self.required}"


def combined_retry(reasons: Iterable[Reason]) -> tuple[float, float] | None:
    """Return when it is worth looking again if all of these stand in the way.

    Parameters
    ----------
    reasons : iterable of Reason
        Any number.

    Returns
    -------
    tuple of (float, float) or None
        Seconds from now, earliest and latest: those of the reason that lasts longest. ``(0, 0)`` for
        no reasons; None if time alone never clears one of them.
    """
    earliest = latest = 0.0
    for reason in reasons:
        if reason.retry_seconds is None:
            return None
        earliest = max(earliest, reason.retry_seconds[0])
        latest = max(latest, reason.retry_seconds[1])
    return earliest, latest


def format_wait(seconds: tuple[float, float]) -> str:
    """Write a wait for people: ``5-7 h``, ``15-30 min``, ``40 s``.

    Parameters
    ----------
    seconds : tuple of (float, float)
        Earliest and latest, in seconds.
    """
    # Below two of a unit, the next smaller one tells the ends apart better.
    unit, length = next(
        (unit for unit in (("h", 3600.0), ("min", 60.0)) if seconds[1] >= 2 * unit[1]), ("s", 1.0)
    )
    earliest, latest = (f"{value / length:.0f}" for value in seconds)
    return f"{latest} {unit}" if earliest == latest else f"{earliest}-{latest} {unit}"
