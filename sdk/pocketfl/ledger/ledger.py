"""The device's account of what its rounds cost: set aside first, spent in steps, settled at the end.

No crash lets a budget be overspent. An entry that is open counts with all that it was granted, and
its owner records what it spends before each further *stride*, the most that can go unrecorded.
Whoever takes an entry over from a process that died charges it one stride, which is what that
process can have spent after its last record. An entry that nobody takes over counts in full until
it has left the windows.
"""

from __future__ import annotations

import math
import secrets
import time
from collections.abc import Callable
from typing import Final

from pocketfl.budgets.amounts import FLOWS, LEVELS, NOTHING, Amounts
from pocketfl.budgets.epsilon import epsilon_of
from pocketfl.budgets.limits import Budgets
from pocketfl.database import Database
from pocketfl.errors import LedgerError
from pocketfl.ledger.checking import Checker, Request
from pocketfl.ledger.clock import LedgerClock, Uptime
from pocketfl.ledger.entries import (
    Outcome,
    PrivacySpent,
    RecordedRefusal,
    Refusal,
    Reservation,
)
from pocketfl.ledger.granted import after_end, of_one_round, over_granted, raised, rho_of
from pocketfl.ledger.rows import OPEN, Rows, amounts_of, with_contributions
from pocketfl.ledger.tables import LEDGER, YEAR
from pocketfl.reasons import Reason

_FOLD_SECONDS: Final = 3600.0


class Ledger:
    """The account of one device.

    Parameters
    ----------
    database : Database
        The device's file.
    clock : callable, optional
        Unix time in seconds.
    uptime : callable, optional
        How long the device has been up, see :mod:`pocketfl.ledger.clock`; by default the system's
        where ``clock`` is the system's clock, and none for any other clock, such as a simulated
        one.

    Notes
    -----
    Every method is one transaction, and joins the caller's where there is one; with the caller's
    transaction what the method did is undone too. One ledger belongs to one process: what another
    one left open has to be resumed or settled.
    """

    def __init__(
        self,
        database: Database,
        *,
        clock: Callable[[], float] = time.time,
        uptime: Callable[[], Uptime | None] | None = None,
    ) -> None:
        self._database = database
        self._clock = LedgerClock(database, clock=clock, uptime=uptime)
        self._rows = Rows(database)
        self._holder = secrets.token_hex(8)
        self._folded_at = -math.inf

    def check(
        self,
        *,
        task: str,
        round: int,  # noqa: A002
        needs: Amounts,
        budgets: Budgets,
        noise_multiplier: float | None = None,
        adds_up: bool = True,
    ) -> tuple[Reason, ...]:
        """Return what stands against :meth:`reserve` now, without recording anything."""
        self._database.ensure(LEDGER)
        request = Request(
            task=task, round=round, needs=needs, rho=rho_of(needs, noise_multiplier, adds_up)
        )
        now = self._clock.look()
        with self._database.snapshot():
            return self._checker(request, budgets, now).reasons()

    def reserve(
        self,
        *,
        task: str,
        round: int,  # noqa: A002
        needs: Amounts,
        budgets: Budgets,
        wants: Amounts | None = None,
        stride: Amounts = NOTHING,
        noise_multiplier: float | None = None,
        adds_up: bool = True,
        lifetime_seconds: float = 86_400.0,
    ) -> Reservation | Refusal:
        """Set amounts aside for a round.

        Parameters
        ----------
        task : str
            Name of the task.
        round : int
            Number of the round.
        needs : Amounts
            The least with which the round can be done; ``contributions`` is 1 where something is
            sent.
        budgets : Budgets
            What holds; see :func:`pocketfl.budgets.agreed_budgets`.
        wants : Amounts, optional
            As much as may be used if there is room; what one round's limits allow by default.
        stride : Amounts
            The most that may be spent before the first call of :meth:`spend`, and between two of
            them; see :func:`pocketfl.ledger.stride_of`.
        noise_multiplier : float, optional
            The plan's; None for a task without differential privacy.
        adds_up : bool
            Whether what it reveals adds up over the year. False for a log of one day, whose unit of
            privacy is that day: each day is reported once.
        lifetime_seconds : float
            After which the round is over whatever happened, such as its lease.

        Returns
        -------
        Reservation or Refusal
            A refusal is recorded.

        Raises
        ------
        LedgerError
            If the round has a reservation that is open: resume or settle it first.
        """
        needs = needs.covering(with_contributions(stride, contributions=0))
        wants = with_contributions(
            (of_one_round(budgets) if wants is None else wants).covering(needs),
            contributions=needs.contributions,
        )
        request = Request(
            task=task, round=round, needs=needs, rho=rho_of(needs, noise_multiplier, adds_up)
        )
        self._database.ensure(LEDGER)
        with self._database.transaction() as connection:
            if self._database.query(
                "SELECT 1 FROM ledger_entries WHERE task = ? AND round = ? AND outcome = 'open'",
                (task, round),
            ):
                raise LedgerError(
                    f"round {round} of {task!r} has an open reservation: resume() or settle() it"
                )
            instant = self._clock.tick(connection)
            checker = self._checker(request, budgets, instant.time)
            reasons = checker.reasons()
            if reasons:
                return self._rows.refuse(connection, task, round, reasons, instant)
            granted = checker.room(wants)
            expires = instant.time + lifetime_seconds
            return self._rows.insert(
                connection,
                task=task,
                round=round,
                holder=self._holder,
                granted=granted,
                stride=stride,
                opened_wall=instant.wall,
                expires=expires,
                noise_multiplier=noise_multiplier,
                rho=request.rho,
            )

    def spend(
        self,
        reservation: Reservation,
        amounts: Amounts = NOTHING,
        *,
        total: Amounts | None = None,
        stride: Amounts | None = None,
    ) -> Reason | None:
        """Record what was used since the last record.

        Parameters
        ----------
        reservation : Reservation
            This process's own.
        amounts : Amounts
            Used since the last call.
        total : Amounts, optional
            All that the round has come to, instead of what came on top since the last call.
        stride : Amounts, optional
            The most that may be used until the next call, where that changed.

        Returns
        -------
        Reason or None
            Why the session has to stop now: another stride would not fit into what was granted.

        Raises
        ------
        LedgerError
            If the reservation is settled, unknown, or another process's.
        """
        self._database.ensure(LEDGER)
        with self._database.transaction() as connection:
            kept, holder, expires = self._rows.open_entry(reservation.id)
            if holder != self._holder:
                raise LedgerError(
                    f"reservation {kept.id} was made by another process: resume() it first"
                )
            instant = self._clock.tick(connection)
            spent = raised(kept.spent + amounts, total)
            stride = kept.stride if stride is None else stride
            self._rows.write(
                connection, kept, holder=self._holder, spent=spent, stride=stride, now=instant.time
            )
            late = after_end(expires, instant)
            if late:
                return late[0]
            return over_granted(spent, stride=stride, granted=kept.granted)

    def resume(
        self,
        reservation: Reservation,
        *,
        needs: Amounts,
        budgets: Budgets,
        wants: Amounts | None = None,
        stride: Amounts | None = None,
    ) -> Reservation | Refusal:
        """Take up a round that was interrupted, with what it still needs from now on.

        Parameters
        ----------
        reservation : Reservation
            From :meth:`unsettled`; one stride is charged if another process had it.
        needs, wants : Amounts
            From here on, as in :meth:`reserve`. The contribution itself is set aside already.
        budgets : Budgets
            What holds now.
        stride : Amounts, optional
            Where it changed.

        Returns
        -------
        Reservation or Refusal
            After a refusal, which is recorded, the reservation is still there, and is to be
            settled.

        Raises
        ------
        LedgerError
            If the reservation is settled or unknown.
        """
        self._database.ensure(LEDGER)
        with self._database.transaction() as connection:
            kept, holder, expires = self._rows.open_entry(reservation.id)
            instant = self._clock.tick(connection)
            lost = holder != self._holder
            spent = kept.spent + kept.stride if lost else kept.spent
            stride = kept.stride if stride is None else stride
            needs = needs.covering(stride)
            # The contribution of this entry is part of what was granted at first.
            needs = with_contributions(spent + needs, contributions=kept.granted.contributions)
            wants = of_one_round(budgets) if wants is None else spent + wants
            wants = with_contributions(
                wants.covering(needs), contributions=kept.granted.contributions
            )
            request = Request(task=kept.task, round=kept.round, needs=needs, without=kept.id)
            checker = self._checker(request, budgets, instant.time)
            reasons = checker.reasons() + after_end(expires, instant)
            granted = kept.granted if reasons else checker.room(wants)
            renewed = Reservation(
                id=kept.id,
                task=kept.task,
                round=kept.round,
                granted=granted,
                spent=spent,
                stride=stride,
                crashes=kept.crashes + lost,
            )
            self._rows.write(
                connection,
                renewed,
                holder=self._holder,
                spent=spent,
                stride=renewed.stride,
                now=instant.time,
            )
            if reasons:
                return self._rows.refuse(connection, kept.task, kept.round, reasons, instant)
            return renewed

    def settle(
        self,
        reservation: Reservation,
        *,
        outcome: Outcome,
        amounts: Amounts = NOTHING,
        total: Amounts | None = None,
    ) -> None:
        """Close a reservation: what was not spent is free again.

        Parameters
        ----------
        reservation : Reservation
            This process's own, or one from :meth:`unsettled`, which is charged one stride.
        amounts, total : Amounts
            As in :meth:`spend`.
        outcome : {"sent", "unsent", "unknown"}
            Whether the contribution left the device. ``unsent`` frees the contribution and its
            epsilon.

        Raises
        ------
        LedgerError
            If the reservation is unknown, or was settled with another outcome. Only ``unknown`` may
            become ``sent`` later.
        """
        if outcome not in ("sent", "unsent", "unknown"):
            raise ValueError(f"outcome must be 'sent', 'unsent' or 'unknown', not {outcome!r}")
        self._database.ensure(LEDGER)
        with self._database.transaction() as connection:
            rows = self._database.query(
                "SELECT outcome, rho FROM ledger_entries WHERE id = ?", (reservation.id,)
            )
            if rows and rows[0][0] != OPEN:
                if (rows[0][0], outcome) == ("unknown", "sent"):
                    connection.execute(
                        "UPDATE ledger_entries SET outcome = 'sent' WHERE id = ?", (reservation.id,)
                    )
                elif rows[0][0] != outcome:
                    raise LedgerError(
                        f"reservation {reservation.id} was settled as {rows[0][0]!r} and cannot "
                        f"become {outcome!r}"
                    )
                return
            kept, holder, _ = self._rows.open_entry(reservation.id)
            instant = self._clock.tick(connection)
            spent = raised(kept.spent + amounts, total)
            if holder != self._holder:
                spent += kept.stride
            sent = outcome != "unsent"
            spent = with_contributions(spent, contributions=kept.granted.contributions * sent)
            rho = rows[0][1] if sent else 0.0
            self._rows.settle(
                connection, reservation.id, outcome=outcome, spent=spent, rho=rho, now=instant.time
            )
            # What no window reaches takes up little, and may wait for an hour.
            if instant.time - self._folded_at >= _FOLD_SECONDS:
                self._rows.fold(connection, instant.time)
                self._folded_at = instant.time

    def unsettled(self) -> tuple[Reservation, ...]:
        """Return the reservations that are open, oldest first: after a restart, what a crash left."""
        self._database.ensure(LEDGER)
        return self._rows.unsettled()

    def privacy(self, *, delta: float) -> PrivacySpent:
        """Return this device's privacy loss over the last 365 days, at a delta."""
        self._database.ensure(LEDGER)
        rows = self._database.query(
            "SELECT total(rho), total((rho > 0) * held_contributions), "
            "total((noise_multiplier IS NULL) * held_contributions) "
            "FROM ledger_entries WHERE counted_at > ?",
            (self._clock.look() - YEAR,),
        )
        rho, protected, unprotected = rows[0]
        return PrivacySpent(
            rho=rho,
            epsilon=epsilon_of(rho, delta=delta),
            delta=delta,
            contributions=int(protected),
            unprotected=int(unprotected),
        )

    def used(self, *, seconds: float) -> Amounts:
        """Return what is held or spent in the window that ends now; the highest of each level."""
        self._database.ensure(LEDGER)
        columns = [f"total(held_{name})" for name in FLOWS]
        columns += [f"coalesce(max(held_{name}), 0)" for name in LEVELS]
        rows = self._database.query(
            f"SELECT {', '.join(columns)} FROM ledger_entries WHERE counted_at > ?",  # noqa: S608
            (self._clock.look() - seconds,),
        )
        return amounts_of(rows[0])

    def refusals(self, *, limit: int = 100) -> tuple[RecordedRefusal, ...]:
        """Return the last refusals, newest first."""
        self._database.ensure(LEDGER)
        rows = self._database.query(
            "SELECT wall, task, round, reasons FROM ledger_refusals ORDER BY id DESC LIMIT ?",
            (limit,),
        )
        return tuple(
            RecordedRefusal(wall=wall, task=task, round=number, reasons=reasons)
            for wall, task, number, reasons in rows
        )

    # Inside a transaction.

    def _checker(self, request: Request, budgets: Budgets, now: float) -> Checker:
        return Checker(self._database, budgets=budgets, now=now, request=request)
