"""Hours of the day, in UTC, within which rounds may run."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Self

DAY_SECONDS: Final = 86_400
GRACE_SECONDS: Final = 60.0
"""So much shorter than planned a round may be: clocks look every second, and servers start late."""
_FORM: Final = re.compile(r"([01]\d|2[0-3]):([0-5]\d)-([01]\d|2[0-3]):([0-5]\d)")


@dataclass(frozen=True, kw_only=True)
class DailyHours:
    """From one time of the day to another, over midnight if the second is earlier.

    Attributes
    ----------
    begin, end : int
        Seconds after midnight, UTC.
    """

    begin: int
    end: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``HH:MM-HH:MM``.

        Raises
        ------
        ValueError
            If it is anything else, or no time at all.
        """
        found = _FORM.fullmatch(text)
        if found is None:
            raise ValueError(
                f"hours are HH:MM-HH:MM in UTC, such as 22:00-06:00, not {text[:32]!r}"
            )
        hours = [int(part) for part in found.groups()]
        begin, end = 3600 * hours[0] + 60 * hours[1], 3600 * hours[2] + 60 * hours[3]
        if begin == end:
            raise ValueError("hours that begin when they end are none; leave them out for all day")
        return cls(begin=begin, end=end)

    @property
    def seconds(self) -> int:
        """How long they are."""
        return (self.end - self.begin) % DAY_SECONDS

    def opening(self, earliest: float, *, seconds: float) -> float:
        """Return the first time at which a round of a length fits in, give or take the grace.

        Parameters
        ----------
        earliest : float
            Unix time in seconds.
        seconds : float
            How long the round is to be open; at most as long as the hours.
        """
        since = (earliest - self.begin) % DAY_SECONDS
        if since + seconds <= self.seconds + GRACE_SECONDS:
            return earliest
        return earliest + DAY_SECONDS - since

    def closing(self, opened: float, *, seconds: float) -> float:
        """Return when a round that opened at a time closes: never after the hours."""
        since = (opened - self.begin) % DAY_SECONDS
        return opened + min(seconds, self.seconds - since)
