"""Counts of a month by the hour of the day and by the day."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from pocketfl_benchmarks.life.habits import DAY
from pocketfl_benchmarks.life.simulation import Month, MonthSettings


def count_by_hour(by_quarter: Mapping[int, int]) -> list[int]:
    """Return counts for each hour of the day, over all days.

    Parameters
    ----------
    by_quarter : mapping of int to int
        Counts by the number of the quarter of an hour since the month's first midnight.
    """
    counts = [0] * 24
    for quarter, count in by_quarter.items():
        counts[quarter // 4 % 24] += count
    return counts


def count_by_day(month: Month, settings: MonthSettings, *, sent: bool) -> list[int]:
    """Return for each day how many sessions ended in a report, or without one."""
    ended = [session for made in month.sessions.values() for session in made]
    first = min((session.ended_at for session in ended), default=0.0) // DAY * DAY
    days = [(s.ended_at - first) / DAY for s in ended if s.sent is sent]
    counts, _ = np.histogram(days, np.arange(settings.days + 1))
    return [int(count) for count in counts]
