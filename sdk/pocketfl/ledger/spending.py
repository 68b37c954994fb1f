"""Joins a meter and a reservation: what a session asks after every batch.

The check is in memory and takes microseconds; the ledger is written at a bounded rate, each time
with the stride that a crash before the next write would cost.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable

from pocketfl.budgets.amounts import FLOWS, LEVELS, NOTHING, Amounts
from pocketfl.budgets.energy import EnergyModel
from pocketfl.budgets.meter import Meter
from pocketfl.ledger.entries import Outcome, Reservation
from pocketfl.ledger.ledger import Ledger, over_granted
from pocketfl.reasons import Reason


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
        self._seen = meter.read()
        self._step = NOTHING
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
        self._step = self._step.covering(seen.since(self._seen))
        self._seen = seen
        if self._clock() - self._written_at >= self._every:
            return self.record()
        if self.stop_reason is None:
            self.stop_reason = over_granted(
                self._before + seen, stride=self._step, granted=self._reservation.granted
            )
        return self.stop_reason

    def record(self) -> Reason | None:
        """Write what was used; within the caller's transaction where there is one.

        Returns
        -------
        Reason or None
            As :meth:`step`.
        """
        # Totals, not differences: should the caller's transaction be undone, the next write has it all.
        self._seen = self._meter.read(thorough=True)
        total = self._before + self._seen
        reason = self._ledger.spend(self._reservation, total=total, stride=self._stride(total))
        self._written_at = self._clock()
        if self.stop_reason is None:
            self.stop_reason = reason
        return self.stop_reason

    def finish(self, *, outcome: Outcome) -> None:
        """Record the rest and settle the reservation."""
        total = self._before + self._meter.read(thorough=True)
        self._ledger.settle(self._reservation, outcome=outcome, total=total)

    def _stride(self, spent: Amounts) -> Amounts:
        """Return a step and the time until the next write, but no more than what is left and a step."""
        stride, granted = self._step + self._span, self._reservation.granted
        values: dict[str, float] = {}
        for name in FLOWS:
            left = getattr(granted, name) - getattr(spent, name)
            values[name] = min(getattr(stride, name), max(getattr(self._step, name), left))
        for name in LEVELS:
            values[name] = getattr(self._step, name)
        return Amounts(**values)  # type: ignore[arg-type]
