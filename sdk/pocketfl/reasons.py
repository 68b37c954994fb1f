"""Why the device does not train now: one shape for conditions, budgets and the schedule."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

__all__ = ["Reason"]

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
