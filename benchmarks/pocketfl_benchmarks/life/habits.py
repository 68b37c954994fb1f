"""How people use their phones, as scripted signals: when they charge, where they are, what they do.

Made up, but not out of thin air: most phones charge at night on the home's network, some are topped up
by day, a few are hardly ever charged to the full, and a game makes any of them hot.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from pocketfl.conditions import Signals, Thermal

DAY: Final = 86_400.0
HOUR: Final = 3600.0
STEP: Final = HOUR
"""Seconds between two entries of a script."""


@dataclass(frozen=True, kw_only=True)
class Habits:
    """One person's days.

    Attributes
    ----------
    bedtime, sleep : float
        Hour at which the phone is put on the charger, and hours until it is taken off.
    forgets : float
        Share of the nights on which it is not.
    drain : float
        Share of the battery that an hour in use takes.
    at_home : float
        Share of the waking hours on an unmetered network.
    plays : float
        Share of the waking hours with something that heats the phone.
    saver_below : float
        Level below which power save comes on.
    """

    bedtime: float
    sleep: float
    forgets: float
    drain: float
    at_home: float
    plays: float
    saver_below: float


def draw_habits(random: np.random.Generator) -> Habits:
    """Draw a person."""
    return Habits(
        bedtime=float(random.normal(22.8, 1.2)) % 24,
        sleep=float(np.clip(random.normal(7.6, 0.9), 4.5, 10.5)),
        forgets=float(random.beta(1, 8)),
        drain=float(np.clip(random.normal(0.06, 0.02), 0.02, 0.12)),
        at_home=float(random.beta(3, 3)),
        plays=float(random.beta(1, 15)),
        saver_below=float(random.choice([0.0, 0.15, 0.2, 0.3])),
    )


def script(
    habits: Habits, *, days: int, random: np.random.Generator
) -> list[tuple[float, Signals]]:
    """Write down what one phone's signals will be.

    Returns
    -------
    list of (second, Signals)
        Every hour from 0, for ``days`` days.
    """
    entries: list[tuple[float, Signals]] = []
    level = float(random.uniform(0.4, 1.0))
    sleeps = random.random(days + 1) >= habits.forgets
    for number in range(round(days * DAY / STEP)):
        moment = number * STEP
        # The night that an hour after midnight belongs to began the day before.
        since_bedtime = (moment / HOUR - habits.bedtime) % 24
        asleep = since_bedtime < habits.sleep
        night = int((moment + (24 - habits.bedtime) * HOUR) // DAY)
        charging = asleep and bool(sleeps[min(night, days)])
        # A phone that is nearly empty is plugged in wherever its owner is.
        charging = charging or level < 0.12
        if charging:
            level = min(1.0, level + 0.45 * STEP / HOUR)
        else:
            use = habits.drain * (0.15 if asleep else 1.0)
            level = max(0.02, level - use * STEP / HOUR)
        hot = not asleep and bool(random.random() < habits.plays)
        entries.append(
            (
                moment,
                Signals(
                    battery_level=level,
                    charging=charging,
                    thermal=Thermal.MODERATE if hot else Thermal.NONE,
                    metered=not (asleep or bool(random.random() < habits.at_home)),
                    idle=asleep or bool(random.random() < 0.3),
                    power_save=not charging and level < habits.saver_below,
                    free_storage_bytes=8 * 2**30,
                    free_memory_bytes=1 * 2**30,
                ),
            )
        )
    return entries
