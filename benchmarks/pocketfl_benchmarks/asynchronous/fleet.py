"""Phones on a made-up clock: when they are there, how fast they train, how often they break off."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

HOUR: Final = 3600.0
DAY: Final = 24 * HOUR
MEDIAN_SECONDS: Final = 60.0
"""Of a session: download, training, upload."""
SPREAD: Final = 1.0
"""Standard deviation of the logarithm of its length: of a few thousand devices the slowest takes more
than a hundred times as long as the fastest."""
JITTER: Final = 0.3
"""The same from one session of a device to the next."""
NIGHT: Final = 1.0 * HOUR
"""Middle of most devices' hours on the charger."""


@dataclass(frozen=True, kw_only=True)
class Phones:
    """A fleet's habits.

    Attributes
    ----------
    seconds : ndarray of float64, shape (n,)
        Typical length of each device's session.
    begin, length : ndarray of float64, shape (n,)
        Of the part of each day in which it is there, in seconds.
    drop_out : float
        Share of sessions that break off for other reasons (Bonawitz et al. 2019: 6 to 10 %).
    """

    seconds: NDArray[np.float64]
    begin: NDArray[np.float64]
    length: NDArray[np.float64]
    drop_out: float

    @classmethod
    def draw(cls, count: int, *, drop_out: float, generator: np.random.Generator) -> Phones:
        """Make up a fleet: most are there for some hours of the night, some at any time of the day."""
        by_night = generator.random(count) < 0.75
        middle = np.where(
            by_night,
            NIGHT + 1.5 * HOUR * generator.normal(size=count),
            DAY * generator.random(count),
        )
        length = np.clip(
            np.exp(generator.normal(np.log(5 * HOUR), 0.6, size=count)), HOUR, 0.9 * DAY
        )
        return cls(
            seconds=MEDIAN_SECONDS * np.exp(SPREAD * generator.normal(size=count)),
            begin=(middle - length / 2) % DAY,
            length=length,
            drop_out=drop_out,
        )

    def hours_left(self, now: float) -> NDArray[np.float64]:
        """Return for how many seconds each device is still there; 0 where it is not."""
        since = (now - self.begin) % DAY
        return np.where(since < self.length, self.length - since, 0.0)

    def session(
        self, device: int, now: float, generator: np.random.Generator
    ) -> tuple[float, bool]:
        """Return when a session of a device ends, and whether by a report."""
        takes = float(self.seconds[device] * np.exp(JITTER * generator.normal()))
        if generator.random() < self.drop_out:
            return now + takes * generator.random(), False
        left = float(self.hours_left(now)[device])
        return (now + takes, True) if takes <= left else (now + left, False)
