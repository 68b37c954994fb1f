"""What the session under way costs: set aside when it begins, spent in steps, settled at its end."""

from __future__ import annotations

from collections.abc import Callable

from pocketfl.budgets import FLOWS, Amounts, Meter
from pocketfl.device.admission import Admission, adds_up, noise_of
from pocketfl.device.sessions import ASK_SECONDS, Session
from pocketfl.ledger import Ledger, Outcome, Refusal, Reservation, Spending
from pocketfl.plan.manifest import Manifest
from pocketfl.reasons import Reason
from pocketfl.transport import Traffic, Transport


class SessionAccount:
    """Joins one session at a time to the device's ledger, meter and traffic.

    Parameters
    ----------
    ledger : Ledger
        What the device's rounds cost.
    admission : Admission
        Knows which budgets hold.
    transport : Transport
        Whose traffic is charged.
    meter : callable
        Makes the meter of a session.
    clock : callable
        Unix time in seconds.
    """

    def __init__(
        self,
        ledger: Ledger,
        *,
        admission: Admission,
        transport: Transport,
        meter: Callable[[], Meter],
        clock: Callable[[], float],
    ) -> None:
        self._ledger = ledger
        self._admission = admission
        self._transport = transport
        self._new_meter = meter
        self._clock = clock
        # Traffic between two sessions, such as looking for rounds, is charged to the next one.
        self._charged = transport.traffic
        self._session: Session | None = None
        self._meter: Meter | None = None
        self._spending: Spending | None = None

    def open(
        self, session: Session, manifest: Manifest | None, *, resumed: bool
    ) -> tuple[Reason, ...]:
        """Set amounts aside, or take up what an earlier run had set aside.

        Returns
        -------
        tuple of Reason
            Why there is no room, and no account; empty when there is one.
        """
        self.forget()
        kept = self._find_reservation(session.task, session.round) if resumed else None
        if kept is not None:
            reservation = self._ledger.resume(
                kept,
                needs=Amounts(),
                budgets=self._admission.budgets_of(manifest),
                wants=_rest(kept),
                stride=self._admission.stride,
            )
        else:
            reservation = self._ledger.reserve(
                task=session.task,
                round=session.round,
                needs=self._admission.needs(manifest),
                budgets=self._admission.budgets_of(manifest),
                stride=self._admission.stride,
                noise_multiplier=noise_of(manifest),
                adds_up=adds_up(manifest),
                # A report that may have arrived is asked about for some time after its lease.
                lifetime_seconds=max(0.0, session.assignment.expires_at - self._clock())
                + ASK_SECONDS,
            )
        if isinstance(reservation, Refusal):
            return reservation.reasons
        self._session, self._meter = session, self._new_meter()
        self._spending = Spending(self._ledger, reservation, self._meter)
        return ()

    def step(self) -> Reason | None:
        """Charge what one more batch took; return why the session has to stop, or None."""
        if self._spending is None:
            return None
        self._charge_traffic()
        return self._spending.step()

    def record(self) -> None:
        """Write down what was used; within the caller's transaction where there is one."""
        if self._spending is not None:
            self._charge_traffic()
            self._spending.record()

    def pause(self) -> None:
        """Write down the rest of an orderly end: whoever goes on is not charged for a crash."""
        if self._spending is not None:
            self._charge_traffic()
            self._spending.pause()
        self.forget()

    def settle(self, task: str, number: int, *, outcome: Outcome) -> None:
        """Close the account of a round, the one under way or one that an earlier run left."""
        session = self._session
        if (
            session is not None
            and self._spending is not None
            and (session.task, session.round) == (task, number)
        ):
            self._charge_traffic()
            self._spending.finish(outcome=outcome)
            self.forget()
            return
        kept = self._find_reservation(task, number)
        if kept is not None:
            self._ledger.settle(kept, outcome=outcome)

    def take_traffic(self) -> Traffic:
        """Return the traffic that nobody was charged for yet; whoever takes it, charges it."""
        total = self._transport.traffic
        new, self._charged = total - self._charged, total
        return new

    def forget(self) -> None:
        """Have no session under way; what was set aside for one stays so."""
        self._session = self._meter = self._spending = None

    def _find_reservation(self, task: str, number: int) -> Reservation | None:
        for kept in self._ledger.unsettled():
            if (kept.task, kept.round) == (task, number):
                return kept
        return None

    def _charge_traffic(self) -> None:
        # A count is replaced when it changes, so most of the time there is nothing to compare.
        if self._meter is None or self._transport.traffic is self._charged:
            return
        new = self.take_traffic()
        metered = self._admission.is_metered()
        self._meter.add_bytes(up=new.bytes_up, down=new.bytes_down, metered=metered)


def _rest(kept: Reservation) -> Amounts:
    """Return what may still be used, so that the round never comes to more than it was granted.

    A process that died may have used a stride beyond what it recorded. The highest levels do not add
    up: what was granted of them holds on.
    """
    left = [
        max(0.0, granted - spent - stride)
        for granted, spent, stride in zip(
            kept.granted.values(), kept.spent.values(), kept.stride.values(), strict=True
        )
    ]
    return Amounts.of((*left[: len(FLOWS)], *kept.granted.values()[len(FLOWS) :]))
