"""What is fetched while no session is under way: set aside before it comes, and settled after it.

A plan has to be fetched before a device knows whether it takes part, and a process that dies meanwhile
has spent the bytes all the same. So they have an entry of their own in the ledger, as a session has;
what a dead process left open is charged with all that it may have fetched.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from pocketfl.budgets import Amounts, Meter
from pocketfl.device.account import SessionAccount
from pocketfl.device.admission import Admission, retry_after
from pocketfl.errors import BudgetError
from pocketfl.ledger import Ledger, Refusal, Reservation
from pocketfl.ledger.granted import over_granted
from pocketfl.reasons import Reason
from pocketfl.transport import DownloadWatch

LIFETIME_SECONDS: Final = 3600.0
"""After which a download is over, whatever became of it."""

_EVERY_SECONDS: Final = 1.0
_READ_AHEAD: Final = 8 * 2**10
"""Bytes that a connection reads before anybody asks for them."""


class DownloadAccount:
    """Charges downloads outside of sessions.

    Parameters
    ----------
    ledger : Ledger
        What the device's rounds cost.
    admission : Admission
        Knows which budgets hold, and over which link bytes go.
    account : SessionAccount
        Knows which traffic was charged already.
    meter : callable
        Makes the meter of a download.
    settle_orphans : callable
        Closes what a dead process left open.
    """

    def __init__(
        self,
        ledger: Ledger,
        *,
        admission: Admission,
        account: SessionAccount,
        meter: Callable[[], Meter],
        settle_orphans: Callable[[], None],
    ) -> None:
        self._ledger = ledger
        self._admission = admission
        self._account = account
        self._new_meter = meter
        self._settle_orphans = settle_orphans

    @contextmanager
    def charged(
        self,
        *,
        task: str,
        round: int,  # noqa: A002 - the word of the field
    ) -> Iterator[DownloadWatch]:
        """Charge what the block fetches; nothing is set aside where it needs no network.

        Parameters
        ----------
        task, round
            What it is for; 0 where it is for no round.

        Returns
        -------
        context manager of DownloadWatch
            For :meth:`Transport.plan <pocketfl.transport.Transport.plan>` and its like. It raises
            :class:`BudgetError` where what comes next does not fit.
        """
        download = _Download(self._ledger, self._admission, task=task, round=round)

        def watch(received: int, ahead: int) -> None:
            if not download.has_begun:
                self._settle_orphans()
                download.begin(self._new_meter(), ahead=ahead)
            download.go_on(received=received, ahead=ahead)

        try:
            yield watch
        finally:
            if download.has_begun:
                download.finish(self._account)


class _Download:
    """One entry of the ledger, from the first request to its end."""

    def __init__(
        self,
        ledger: Ledger,
        admission: Admission,
        *,
        task: str,
        round: int,  # noqa: A002
    ) -> None:
        self._ledger = ledger
        self._admission = admission
        self._task = task
        self._round = round
        self._entry: tuple[Reservation, Meter] | None = None
        self._received = self._set_aside = 0
        self._written_at = time.monotonic()

    @property
    def has_begun(self) -> bool:
        return self._entry is not None

    def begin(self, meter: Meter, *, ahead: int) -> None:
        reservation = self._ledger.reserve(
            task=self._task,
            round=self._round,
            needs=Amounts(),
            budgets=self._admission.budgets_of(None),
            stride=self._stride(ahead),
            lifetime_seconds=LIFETIME_SECONDS,
        )
        if isinstance(reservation, Refusal):
            raise _refused(reservation.reasons)
        self._entry = reservation, meter
        self._set_aside = ahead + _READ_AHEAD

    def go_on(self, *, received: int, ahead: int) -> None:
        if self._entry is None:
            raise ValueError("the download has not begun")
        reservation, meter = self._entry
        self._count(meter, down=received - self._received)
        self._received = received
        now = time.monotonic()
        if received + ahead <= self._set_aside and now - self._written_at < _EVERY_SECONDS:
            return
        total, stride = meter.read(), self._stride(ahead)
        # What cannot be had is not set aside, either: a crash would be charged with all of it.
        reason = over_granted(total, stride=stride, granted=reservation.granted)
        if reason is None:
            reason = self._ledger.spend(reservation, total=total, stride=stride)
        if reason is not None:
            raise _refused((reason,))
        self._set_aside, self._written_at = received + ahead + _READ_AHEAD, now

    def finish(self, account: SessionAccount) -> None:
        if self._entry is None:
            raise ValueError("the download has not begun")
        reservation, meter = self._entry
        # With all that nobody was charged for yet, such as the look for rounds that led here.
        spent = account.take_traffic()
        self._count(meter, up=spent.bytes_up, down=max(0, spent.bytes_down - self._received))
        self._ledger.settle(reservation, outcome="unsent", total=meter.read(thorough=True))

    def _stride(self, ahead: int) -> Amounts:
        """Return what may come until the next record: so many bytes, and the work of a second."""
        count = ahead + _READ_AHEAD
        if self._admission.is_metered() is False:
            return self._admission.stride + Amounts(bytes_down_unmetered=count)
        return self._admission.stride + Amounts(bytes_down_metered=count)

    def _count(self, meter: Meter, *, up: int = 0, down: int) -> None:
        meter.add_bytes(up=up, down=down, metered=self._admission.is_metered())


def _refused(reasons: tuple[Reason, ...]) -> BudgetError:
    return BudgetError("; ".join(map(str, reasons)), retry_after=retry_after(reasons))
