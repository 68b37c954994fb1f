"""The server's side of the month: a round a day and task, so many places an hour, and pace steering."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Final

from pocketfl_benchmarks.life.habits import HOUR

SLOT: Final = 0.25 * HOUR


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a device is told at its check-in.

    Attributes
    ----------
    admitted : bool
        Whether it has a place.
    reason : str
        Of the retry window.
    window : tuple of float
        Seconds after which to come back, from and to.
    """

    admitted: bool
    reason: str = ""
    window: tuple[float, float] = (0.0, 0.0)


@dataclass
class PacedServer:
    """Admits at most so many devices per quarter of an hour.

    Attributes
    ----------
    places_per_slot : int
        Places of each quarter of an hour, for all tasks together.
    """

    places_per_slot: int
    admitted: Counter[int] = field(default_factory=Counter)
    asked: Counter[int] = field(default_factory=Counter)

    def check_in(self, *, now: float) -> Answer:
        """Answer one check-in."""
        slot = int(now // SLOT)
        self.asked[slot] += 1
        if self.admitted[slot] >= self.places_per_slot:
            return Answer(admitted=False, reason="round_full", window=(0.5 * HOUR, 2 * HOUR))
        self.admitted[slot] += 1
        return Answer(admitted=True)
