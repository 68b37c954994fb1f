"""How an entry of the ledger is written to its row and read from it."""

from __future__ import annotations

import sqlite3
from typing import Any, Final

from pocketfl.budgets.amounts import MEASURES, NOTHING, Amounts
from pocketfl.database import Database
from pocketfl.errors import LedgerError
from pocketfl.ledger.clock import Instant
from pocketfl.ledger.entries import Outcome, Refusal, Reservation
from pocketfl.ledger.tables import KEPT_REFUSALS, KEPT_SECONDS, assignments, names
from pocketfl.reasons import Reason

OPEN: Final = "open"
_COUNT: Final = len(MEASURES)
_KINDS: Final = tuple(
    float if name in ("cpu_seconds", "wall_seconds", "joules") else int for name in MEASURES
)
_CONTRIBUTIONS: Final = MEASURES.index("contributions")
_ENTRY: Final = (
    f"SELECT id, task, round, holder, outcome, crashes, expires_at, {names('granted')}, "  # noqa: S608
    f"{names('spent')}, {names('stride')} FROM ledger_entries"
)
_INSERT: Final = (
    "INSERT INTO ledger_entries(task, round, holder, outcome, crashes, opened_wall, expires_at, "
    f"counted_at, noise_multiplier, rho, {names('held')}, {names('granted')}, {names('spent')}, "
    f"{names('stride')}) VALUES({', '.join('?' * (10 + 4 * _COUNT))})"
)
_WRITE: Final = (
    "UPDATE ledger_entries SET holder = ?, crashes = ?, counted_at = max(counted_at, ?), "  # noqa: S608
    f"{assignments('held')}, {assignments('granted')}, {assignments('spent')}, "
    f"{assignments('stride')} WHERE id = ?"
)
_SETTLE: Final = (
    "UPDATE ledger_entries SET holder = NULL, outcome = ?, counted_at = ?, rho = ?, "  # noqa: S608
    f"{assignments('held')}, {assignments('spent')} WHERE id = ?"
)


def with_contributions(amounts: Amounts, *, contributions: int) -> Amounts:
    """Return the same amounts with another number of contributions."""
    values = list(amounts.values())
    values[_CONTRIBUTIONS] = contributions
    return Amounts.of(tuple(values))


def amounts_of(values: tuple[Any, ...]) -> Amounts:
    """Return amounts from a row's columns, in the order of MEASURES."""
    # SQLite hands out every column as a float; counts are whole.
    return Amounts.of(tuple(kind(value) for kind, value in zip(_KINDS, values, strict=True)))


def reservation_of(row: tuple[Any, ...]) -> Reservation:
    """Return the reservation of a row of :data:`_ENTRY`."""
    amounts = row[7:]
    return Reservation(
        id=row[0],
        task=row[1],
        round=row[2],
        granted=amounts_of(amounts[:_COUNT]),
        spent=amounts_of(amounts[_COUNT : 2 * _COUNT]),
        stride=amounts_of(amounts[2 * _COUNT :]),
        crashes=row[5],
    )


class Rows:
    """The ledger's tables as a list of entries and a list of refusals.

    Parameters
    ----------
    database : Database
        With the ledger's tables. What writes is called within a transaction.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def open_entry(self, number: int) -> tuple[Reservation, str | None, float]:
        """Return an entry that is not settled, its holder, and when it is over.

        Raises
        ------
        LedgerError
            If it is settled or unknown.
        """
        rows = self._database.query(f"{_ENTRY} WHERE id = ?", (number,))
        if not rows:
            raise LedgerError(f"there is no reservation {number}")
        row = rows[0]
        if row[4] != OPEN:
            raise LedgerError(f"reservation {number} was settled as {row[4]!r}")
        return reservation_of(row), row[3], row[6]

    def insert(
        self,
        connection: sqlite3.Connection,
        *,
        task: str,
        round: int,  # noqa: A002
        holder: str,
        granted: Amounts,
        stride: Amounts,
        opened_wall: float,
        expires: float,
        noise_multiplier: float | None,
        rho: float,
    ) -> Reservation:
        """Write a new entry, which counts with all that it was granted."""
        held = granted.covering(stride)
        cursor = connection.execute(
            _INSERT,
            (
                *(task, round, holder, OPEN, 0, opened_wall, expires, expires),
                *(noise_multiplier, rho),
                *held.values(),
                *granted.values(),
                *NOTHING.values(),
                *stride.values(),
            ),
        )
        return Reservation(
            id=int(cursor.lastrowid or 0),
            task=task,
            round=round,
            granted=granted,
            spent=NOTHING,
            stride=stride,
            crashes=0,
        )

    def write(
        self,
        connection: sqlite3.Connection,
        entry: Reservation,
        *,
        holder: str,
        spent: Amounts,
        stride: Amounts,
        now: float,
    ) -> None:
        """Write what an open entry has come to."""
        held = entry.granted.covering(spent + stride)
        connection.execute(
            _WRITE,
            (
                *(holder, entry.crashes, now),
                *held.values(),
                *entry.granted.values(),
                *spent.values(),
                *stride.values(),
                entry.id,
            ),
        )

    def settle(
        self,
        connection: sqlite3.Connection,
        number: int,
        *,
        outcome: Outcome,
        spent: Amounts,
        rho: float,
        now: float,
    ) -> None:
        """Close an entry, which from now on counts with what it came to."""
        values = spent.values()
        connection.execute(_SETTLE, (outcome, now, rho, *values, *values, number))

    def refuse(
        self,
        connection: sqlite3.Connection,
        task: str,
        number: int,
        reasons: tuple[Reason, ...],
        instant: Instant,
    ) -> Refusal:
        """Write a refusal down; only so many are kept."""
        refusal = Refusal(task=task, round=number, reasons=reasons)
        cursor = connection.execute(
            "INSERT INTO ledger_refusals(wall, task, round, reasons) VALUES(?, ?, ?, ?)",
            (instant.wall, task, number, str(refusal)),
        )
        connection.execute(
            "DELETE FROM ledger_refusals WHERE id <= ?", ((cursor.lastrowid or 0) - KEPT_REFUSALS,)
        )
        return refusal

    def fold(self, connection: sqlite3.Connection, now: float) -> None:
        """Add entries that no window reaches any more to the total of their task."""
        rows = self._database.query(
            "SELECT id, task, held_contributions FROM ledger_entries "
            "WHERE counted_at < ? AND outcome <> 'open' ORDER BY counted_at LIMIT 100",
            (now - KEPT_SECONDS,),
        )
        for number, task, contributions in rows:
            connection.execute(
                "INSERT INTO ledger_tasks(task, contributions) VALUES(?, ?) ON CONFLICT(task) "
                "DO UPDATE SET contributions = contributions + excluded.contributions",
                (task, int(contributions)),
            )
            connection.execute("DELETE FROM ledger_entries WHERE id = ?", (number,))

    def unsettled(self) -> tuple[Reservation, ...]:
        """Return the entries that are open, oldest first."""
        rows = self._database.query(f"{_ENTRY} WHERE outcome = 'open' ORDER BY id")
        return tuple(reservation_of(row) for row in rows)
