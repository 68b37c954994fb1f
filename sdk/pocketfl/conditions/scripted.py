"""Signals from a script, for tests and simulations with a clock of their own."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import Final, Self

from pocketfl.conditions.signals import Signals


class ScriptedSignals:
    """Plays signals by a clock.

    Parameters
    ----------
    timeline : iterable of (float, Signals)
        From which second on the device is in which state, in rising order. Before the first one
        everything is unknown.
    clock : callable
        Gives the time in seconds by which the timeline counts.
    repeat_every : float, optional
        Length in seconds after which the timeline starts again, such as 86,400 for a day; above the
        last second of the timeline. Before the first entry of a repetition, the last one still holds.

    Raises
    ------
    ValueError
        If the timeline is empty, out of order, or does not fit into its repetition.
    """

    def __init__(
        self,
        timeline: Iterable[tuple[float, Signals]],
        *,
        clock: Callable[[], float],
        repeat_every: float | None = None,
    ) -> None:
        entries = list(timeline)
        if not entries:
            raise ValueError("the timeline is empty: give at least one (second, Signals)")
        times = [second for second, _ in entries]
        for before, after in pairwise(times):
            if not before < after:
                raise ValueError(f"the timeline goes from second {before} to {after}: sort it")
        if repeat_every is not None and (times[0] < 0 or times[-1] >= repeat_every):
            raise ValueError(
                f"a timeline that repeats every {repeat_every} s has its seconds from 0 up to but "
                f"not that, not {times[0]} to {times[-1]}"
            )
        self._times: Final = times
        self._signals: Final = [signals for _, signals in entries]
        self._clock = clock
        self._repeat_every = repeat_every

    @classmethod
    def always(cls, signals: Signals) -> Self:
        """Return a device whose state never changes."""
        return cls([(0.0, signals)], clock=lambda: 0.0)

    def read(self) -> Signals:
        """Return the state that the script has now."""
        now = self._clock()
        if self._repeat_every is not None:
            # Index -1 is the state that the repetition before ended with.
            return self._signals[bisect_right(self._times, now % self._repeat_every) - 1]
        index = bisect_right(self._times, now) - 1
        return self._signals[index] if index >= 0 else Signals()
