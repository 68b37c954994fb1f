"""The device's book of receipts: a line per contribution, and every byte in one line or another.

A receipt is written before the report leaves the device, and settled with what the server answered;
both happen inside the transactions in which the device records the same steps, so neither is ever
without the other.

Bytes are taken from the transport's own count. The book remembers how much of that count is written
already, and reads in the same transaction whether that writing has survived: bytes of a transaction
that was rolled back are written with the next one, and none are written twice.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Final, Literal

from pocketfl.database import Database
from pocketfl.errors import StoreError
from pocketfl.receipts.audit import Audit, audit_of
from pocketfl.receipts.receipt import Contribution, ContributionOutcome, Receipt
from pocketfl.receipts.tables import CONTRIBUTION_FIELDS, TABLES, column, read_receipt
from pocketfl.transport.interface import Traffic

MAX_SESSIONS: Final = 64
"""Sessions whose place in the count is remembered; older ones are processes that have ended."""
CODE_LIMIT: Final = 64

_MARKS: Final = 64

_DAY: Final = 86_400
_NEXT: Final[dict[ContributionOutcome, frozenset[ContributionOutcome]]] = {
    "prepared": frozenset({"accepted", "rejected", "abandoned", "unknown"}),
    "unknown": frozenset({"accepted", "rejected"}),
    "accepted": frozenset(),
    "rejected": frozenset(),
    "abandoned": frozenset(),
}
_INSERT: Final = (
    f"INSERT INTO receipts({', '.join(map(column, CONTRIBUTION_FIELDS))}, prepared_at) "
    f"VALUES({', '.join('?' * len(CONTRIBUTION_FIELDS))}, ?) ON CONFLICT(task, round) DO NOTHING"
)
_ADD_OVERHEAD: Final = (
    "INSERT INTO protocol_overhead(day, kind, requests, bytes_up, bytes_down) "
    "VALUES(?, ?, ?, ?, ?) ON CONFLICT(day, kind) DO UPDATE SET "
    "requests = requests + excluded.requests, bytes_up = bytes_up + excluded.bytes_up, "
    "bytes_down = bytes_down + excluded.bytes_down"
)


class Receipts:
    """Writes and reads a device's receipts; safe to share between threads.

    Parameters
    ----------
    database : Database
        The device's file. Every method joins a transaction that the caller holds.
    traffic : callable, optional
        Returns the transport's count since it was made; without one no bytes are accounted for.
    clock : callable, optional
        Unix time in seconds.
    """

    def __init__(
        self,
        database: Database,
        *,
        traffic: Callable[[], Traffic] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._database = database
        self._traffic = traffic if traffic is not None else Traffic
        self._clock = clock
        self._session = os.urandom(8).hex()
        # What the transport had counted at the last writings, by their number; see _account.
        self._marks: dict[int, Traffic] = {0: Traffic()}
        self._row = 0
        # Now and not at the first use, which may be inside a transaction that is rolled back.
        database.ensure(TABLES)

    def prepare(self, contribution: Contribution) -> Receipt:
        """Write the receipt of a report that is sealed and not yet sent.

        Parameters
        ----------
        contribution : Contribution
            What will be sent.

        Returns
        -------
        Receipt
            The new receipt, or the one of the very same report that was prepared before a restart.

        Raises
        ------
        StoreError
            If another report was prepared for this round: there is one per round.
        """
        with self._database.transaction() as connection:
            self._account(None)
            task, number = contribution.task, contribution.round
            now = self._clock()
            values = {name: getattr(contribution, name) for name in CONTRIBUTION_FIELDS}
            if connection.execute(_INSERT, (*values.values(), now)).rowcount == 1:
                return Receipt(**values, prepared_at=now)
            known = self._required(task, number)
            if known.report_sha256 != contribution.report_sha256:
                raise StoreError(
                    f"round {number} of {task!r} has a receipt for another report; a device "
                    "makes one report per round"
                )
            return known

    def accept(self, *, task: str, round: int) -> Receipt:  # noqa: A002
        """Record that the server holds the report.

        Raises
        ------
        StoreError
            If there is no such receipt, or the report was rejected or given up.
        """
        return self._settle(task, round, outcome="accepted", code=None)

    def reject(self, *, task: str, round: int, code: str) -> Receipt:  # noqa: A002
        """Record that the server refused the report for good.

        Parameters
        ----------
        task, round
            Which.
        code : str
            The server's reason.

        Raises
        ------
        StoreError
            If there is no such receipt, or the report was accepted or given up.
        """
        return self._settle(task, round, outcome="rejected", code=code)

    def abandon(
        self,
        *,
        task: str,
        round: int,  # noqa: A002
        code: str,
        maybe_sent: bool,
    ) -> Receipt | None:
        """Record that no answer for the report is waited for any longer.

        Parameters
        ----------
        task, round
            Which.
        code : str
            Why, such as ``lease_expired``.
        maybe_sent : bool
            Whether an upload was begun, also by a process that ended before it could say. The outcome
            is then ``unknown`` and not ``abandoned``.

        Returns
        -------
        Receipt or None
            None if no report had been prepared: then nothing was contributed.

        Raises
        ------
        StoreError
            If the report was accepted or rejected.
        """
        with self._database.transaction():
            self._account((task, round))
            known = self.find(task=task, round=round)
            if known is None:
                return None
            sent = maybe_sent or known.uploads > 0 or known.outcome == "unknown"
            return self._settle(task, round, outcome="unknown" if sent else "abandoned", code=code)

    def settle(
        self,
        *,
        task: str,
        round: int,  # noqa: A002
        outcome: Literal["accepted", "rejected", "abandoned", "unknown"],
        code: str,
    ) -> Receipt | None:
        """Record an outcome that is known by name; see the four methods that it stands for.

        Returns
        -------
        Receipt or None
            None if a session was given up before it had a report.

        Raises
        ------
        StoreError
            As they do.
        """
        if outcome == "accepted":
            return self.accept(task=task, round=round)
        if outcome == "rejected":
            return self.reject(task=task, round=round, code=code)
        return self.abandon(task=task, round=round, code=code, maybe_sent=outcome == "unknown")

    def account(self, *, task: str | None = None, round: int | None = None) -> None:  # noqa: A002
        """Write what the transport has counted since the last time; cheap when there is nothing.

        Call it when a session ends without one of the other calls, and before the process ends.

        Parameters
        ----------
        task, round : optional
            Whose report the uploads since then carried, if it is not settled yet.
        """
        if self._unwritten()[1] == Traffic():
            return
        with self._database.transaction():
            self._account(None if task is None or round is None else (task, round))

    def find(self, *, task: str, round: int) -> Receipt | None:  # noqa: A002
        """Return the receipt of a round, or None."""
        return read_receipt(self._database.query, task=task, round=round)

    def has(self, *, task: str, round: int) -> bool:  # noqa: A002
        """Return whether there is a receipt of a round, sound or not."""
        query = "SELECT 1 FROM receipts WHERE task = ? AND round = ?"
        return bool(self._database.query(query, (task, round)))

    def unsettled(self) -> tuple[tuple[str, int], ...]:
        """Return task and round of every report that was prepared and has no outcome yet."""
        rows = self._database.query("SELECT task, round FROM receipts WHERE outcome = 'prepared'")
        return tuple((task, number) for task, number in rows)

    def audit(self) -> Audit:
        """Return everything that is on record, in one moment's state."""
        with self._database.snapshot():
            return audit_of(self._database.query)

    def _settle(
        self,
        task: str,
        number: int,
        *,
        outcome: Literal["accepted", "rejected", "abandoned", "unknown"],
        code: str | None,
    ) -> Receipt:
        with self._database.transaction() as connection:
            self._account((task, number))
            known = self._required(task, number)
            if known.outcome == outcome:
                return known
            if outcome not in _NEXT[known.outcome]:
                raise StoreError(
                    f"the report for round {number} of {task!r} is {known.outcome} and cannot "
                    f"become {outcome}"
                )
            settled = replace(
                known, outcome=outcome, code=_printable(code), settled_at=self._clock()
            )
            connection.execute(
                "UPDATE receipts SET outcome = ?, code = ?, settled_at = ? "
                "WHERE task = ? AND round = ?",
                (settled.outcome, settled.code, settled.settled_at, task, number),
            )
            return settled

    def _required(self, task: str, number: int) -> Receipt:
        found = self.find(task=task, round=number)
        if found is None:
            raise StoreError(
                f"there is no receipt for round {number} of {task!r}; prepare it before the upload"
            )
        return found

    def _unwritten(self) -> tuple[int, Traffic, Traffic]:
        """Return the number of the last writing that survived, what is not written, and the count."""
        rows = self._database.query(
            "SELECT sequence FROM accounted_traffic WHERE session = ?", (self._session,)
        )
        total = self._traffic()
        sequence = rows[0][0] if rows else 0
        if not rows and self._row:
            newest = self._database.query("SELECT max(id) FROM accounted_traffic")[0][0] or 0
            if newest - self._row >= MAX_SESSIONS:
                # The row has made room for those of many others, so its last writing stood.
                sequence = max(self._marks)
        if sequence not in self._marks:
            # Only a transaction with very many writings of its own: rather too much than too little.
            sequence = min(self._marks)
        return sequence, total - self._marks[sequence], total

    def _account(self, contribution: tuple[str, int] | None) -> None:
        """Write the bytes since the last writing that survived; the caller holds the transaction."""
        sequence, spent, total = self._unwritten()
        if spent == Traffic():
            return
        kinds: dict[str, Traffic] = {}
        other = Traffic(
            bytes_up=spent.bytes_up, bytes_down=spent.bytes_down, requests=spent.requests
        )
        for kind, part in spent.by_kind.items():
            kinds[kind] = part
            other -= part
        if other != Traffic():
            kinds["other"] = other
        with self._database.transaction() as connection:
            uploads = kinds.get("upload")
            if contribution is not None and uploads is not None:
                found = connection.execute(
                    "UPDATE receipts SET uploads = uploads + ?, bytes_up = bytes_up + ?, "
                    "bytes_down = bytes_down + ? WHERE task = ? AND round = ?",
                    (uploads.requests, uploads.bytes_up, uploads.bytes_down, *contribution),
                )
                if found.rowcount == 1:
                    del kinds["upload"]
            day = int(self._clock() // _DAY)
            connection.executemany(
                _ADD_OVERHEAD,
                [
                    (day, kind, part.requests, part.bytes_up, part.bytes_down)
                    for kind, part in kinds.items()
                ],
            )
            connection.execute(
                "INSERT INTO accounted_traffic(session, sequence) VALUES(?, ?) "
                "ON CONFLICT(session) DO UPDATE SET sequence = excluded.sequence",
                (self._session, sequence + 1),
            )
            if sequence == 0:
                (self._row,) = connection.execute(
                    "SELECT id FROM accounted_traffic WHERE session = ?", (self._session,)
                ).fetchone()
                connection.execute(
                    "DELETE FROM accounted_traffic WHERE id <= "
                    "(SELECT max(id) FROM accounted_traffic) - ?",
                    (MAX_SESSIONS,),
                )
        # Whether this writing survives is known only later, so earlier marks are kept.
        kept = {number: mark for number, mark in self._marks.items() if number <= sequence}
        self._marks = {**kept, sequence + 1: total}
        if len(self._marks) > _MARKS:
            del self._marks[min(self._marks)]


def _printable(code: str | None) -> str | None:
    """Return a server's code as something that is safe to show, in a terminal too."""
    if code is None:
        return None
    shown = "".join(character if character.isprintable() else "?" for character in code)
    return shown[:CODE_LIMIT] or "unnamed"
