"""Joins a meter and a reservation: what a session asks after every batch.

The check is in memory and takes microseconds; the ledger is written at a bounded rate, each time
with the stride that a crash before the next write would cost.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from operator import add, gt, sub
from typing import Final

from pocketfl.budgets.amounts import FLOWS, NOTHING, Amounts
from pocketfl.budgets.energy import EnergyModel
from pocketfl.budgets.meter import Meter
from pocketfl.ledger.entries import Outcome, Reservation
from pocketfl.ledger.granted import over_granted
from pocketfl.ledger.ledger import Ledger
from pocketfl.reasons import Reason

_FLOWS: Final = len(FLOWS)


def stride_of(
    *,
    every_seconds: float = 1.0,
    cpus: int | None = None,
    energy: EnergyModel | None = None,
    step: Amounts = NOTHING,
) -> Amounts:
    """Return the most that a session can use between two records.

    Parameters
    ----------
    every_seconds : float
        Time between two records.
    cpus : int, optional
        Processors that the session keeps busy at most; all of the machine's by default.
    energy : EnergyModel, optional
        For the joules of that.
    step : Amounts
        What one step (a batch, a download) comes to: it may have begun just before a record was
        due.
    """
    cpus = cpus if cpus is not None else os.cpu_count() or 1
    cpu_seconds = every_seconds * cpus
    joules = (energy if energy is not None else EnergyModel()).joules(cpu_seconds=cpu_seconds)
    return step + Amounts(cpu_seconds=cpu_seconds, wall_seconds=every_seconds, joules=joules)


class Spending:
    """A session's account, from its reservation to its end.

    Parameters
    ----------
    ledger : Ledger
        That made the reservation.
    reservation : Reservation
        Made or resumed by this process.
    meter : Meter
        Made for this session: everything it shows is charged.
    every_seconds : float
        Least time between two writes.
    cpus : int, optional
        See :func:`stride_of`.
    energy : EnergyModel, optional
        See :func:`stride_of`.
    clock : callable
        Monotonic time in seconds.
    """

    def __init__(
        self,
        ledger: Ledger,
        reservation: Reservation,
        meter: Meter,
        *,
        every_seconds: float = 1.0,
        cpus: int | None = None,
        energy: EnergyModel | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ledger = ledger
        self._reservation = reservation
        self._meter = meter
        self._every = every_seconds
        self._span = stride_of(every_seconds=every_seconds, cpus=cpus, energy=energy)
        self._clock = clock
        self._written_at = clock()
        self._before = reservation.spent
        self._seen = meter.read().values()
        self._step = NOTHING.values()
        granted, before = reservation.granted.values(), reservation.spent.values()
        self._left = [a - b for a, b in zip(granted[:_FLOWS], before[:_FLOWS], strict=True)]
        self._levels = granted[_FLOWS:]
        self.stop_reason: Reason | None = None
        """Why the session has to stop; stays once it is there."""

    @property
    def spent(self) -> Amounts:
        """All that the round has come to so far, sessions before this one included."""
        return self._before + self._meter.read()

    def step(self) -> Reason | None:
        """Look at the meter after a batch; writes when it is time to.

        Returns
        -------
        Reason or None
            Why the session has to stop now: another batch like the longest so far would not fit.
        """
        seen = self._meter.read()
        self._note_step(seen)
        if self._clock() - self._written_at >= self._every:
            return self.record()
        if self.stop_reason is None and self._may_stop(seen):
            self.stop_reason = over_granted(
                self._before + seen,
                stride=Amounts.of(self._step),
                granted=self._reservation.granted,
            )
        return self.stop_reason

    def _note_step(self, seen: Amounts) -> None:
        """Remember the most of each measure that one step came to; levels are those of now."""
        now = seen.values()
        came_to = map(sub, now[:_FLOWS], self._seen)
        self._step = tuple(map(max, self._step, (*came_to, *now[_FLOWS:])))
        self._seen = now

    def _may_stop(self, seen: Amounts) -> bool:
        """Return whether any measure is at its limit: cheap, and exact where it says no."""
        now = seen.values()
        after_next = map(add, now[:_FLOWS], self._step)
        return any(map(gt, after_next, self._left)) or any(map(gt, now[_FLOWS:], self._levels))

    def record(self) -> Reason | None:
        """Write what was used; within the caller's transaction where there is one.

        Returns
        -------
        Reason or None
            As :meth:`step`.
        """
        # Totals, not differences: should the caller's transaction be undone, the next write has it all.
        seen = self._meter.read(thorough=True)
        self._note_step(seen)
        total = self._before + seen
        reason = self._ledger.spend(self._reservation, total=total, stride=self._stride(total))
        self._written_at = self._clock()
        if self.stop_reason is None:
            self.stop_reason = reason
        return self.stop_reason

    def pause(self) -> None:
        """Record the rest of an orderly end: whoever goes on is not charged for a crash."""
        total = self._before + self._meter.read(thorough=True)
        self._ledger.spend(self._reservation, total=total, stride=NOTHING)

    def finish(self, *, outcome: Outcome) -> None:
        """Record the rest and settle the reservation."""
        total = self._before + self._meter.read(thorough=True)
        self._ledger.settle(self._reservation, outcome=outcome, total=total)

    def _stride(self, spent: Amounts) -> Amounts:
        """Return a step and the time until the next write; no more than what is left, or a step."""
        step = Amounts.of(self._step)
        stride, granted = (step + self._span).values(), self._reservation.granted.values()
        flows = [
            min(most, max(least, limit - used))
            for most, least, limit, used in zip(
                stride[:_FLOWS],
                self._step[:_FLOWS],
                granted[:_FLOWS],
                spent.values()[:_FLOWS],
                strict=True,
            )
        ]
        return Amounts.of((*flows, *self._step[_FLOWS:]))
