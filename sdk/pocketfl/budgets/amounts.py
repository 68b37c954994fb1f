"""What a session costs the device: one record of amounts, and how two of them add up."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, Final

FLOWS: Final = (
    "cpu_seconds",
    "wall_seconds",
    "bytes_up",
    "bytes_up_metered",
    "bytes_down_metered",
    "bytes_down_unmetered",
    "joules",
    "contributions",
)
"""Measures that add up over sessions; in the order of the fields of :class:`Amounts`."""
LEVELS: Final = ("peak_memory_bytes", "storage_bytes")
"""Measures of which only the highest counts: memory that was given back costs nothing any more."""
MEASURES: Final = FLOWS + LEVELS

_LEVELS_AT: Final = len(FLOWS)
_VALUES: Final[Callable[[object], tuple[Any, ...]]] = attrgetter(*MEASURES)


@dataclass(frozen=True, kw_only=True)
class Amounts:
    """Amounts of everything that a budget limits.

    Attributes
    ----------
    cpu_seconds : float
        Processor time of all threads, in seconds.
    wall_seconds : float
        Elapsed time in seconds.
    bytes_up : int
        Bytes sent over any link.
    bytes_up_metered : int
        The part of ``bytes_up`` that went over a metered link.
    bytes_down_metered, bytes_down_unmetered : int
        Bytes received over metered and over other links.
    joules : float
        Energy.
    contributions : int
        Reports that left, or may have left, the device.
    peak_memory_bytes : int
        Most resident memory above that of before the session.
    storage_bytes : int
        Most bytes kept on disk for the session.
    """

    cpu_seconds: float = 0.0
    wall_seconds: float = 0.0
    bytes_up: int = 0
    bytes_up_metered: int = 0
    bytes_down_metered: int = 0
    bytes_down_unmetered: int = 0
    joules: float = 0.0
    contributions: int = 0
    peak_memory_bytes: int = 0
    storage_bytes: int = 0

    def __post_init__(self) -> None:
        _check(_VALUES(self))

    def __add__(self, other: Amounts) -> Amounts:
        """Add what flows; take the higher of each level."""
        one, two = _VALUES(self), _VALUES(other)
        flows = [a + b for a, b in zip(one[:_LEVELS_AT], two[:_LEVELS_AT], strict=True)]
        return Amounts.of((*flows, *map(max, one[_LEVELS_AT:], two[_LEVELS_AT:])))

    def since(self, before: Amounts) -> Amounts:
        """Return what flowed after an earlier reading; levels are those of now."""
        one, two = _VALUES(self), _VALUES(before)
        flows = [max(0, a - b) for a, b in zip(one[:_LEVELS_AT], two[:_LEVELS_AT], strict=True)]
        return Amounts.of((*flows, *one[_LEVELS_AT:]))

    def covering(self, other: Amounts) -> Amounts:
        """Return the higher of each measure."""
        return Amounts.of(tuple(map(max, _VALUES(self), _VALUES(other))))

    def values(self) -> tuple[float, ...]:
        """Return the amounts in the order of :data:`MEASURES`."""
        return _VALUES(self)

    @classmethod
    def of(cls, values: tuple[float, ...]) -> Amounts:
        """Return amounts from values in the order of :data:`MEASURES`."""
        _check(values)
        # A session makes several after every batch: a third of the time that the constructor takes.
        amounts = object.__new__(cls)
        amounts.__dict__.update(zip(MEASURES, values, strict=True))
        return amounts


def _check(values: tuple[float, ...]) -> None:
    # The sound case is three looks; a NaN makes the sum one.
    if min(values) >= 0 and sum(values) < math.inf:
        return
    for name, value in zip(MEASURES, values, strict=True):
        if not 0 <= value < math.inf:
            raise ValueError(f"{name} must be a number of at least 0, not {value!r}")


NOTHING: Final = Amounts()
