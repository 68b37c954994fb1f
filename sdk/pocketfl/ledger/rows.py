"""How an entry of the ledger is written to its row and read from it."""

from __future__ import annotations

from typing import Any, Final

from pocketfl.budgets.amounts import MEASURES, Amounts
from pocketfl.ledger.entries import Reservation
from pocketfl.ledger.tables import assignments, names

OPEN: Final = "open"
_COUNT: Final = len(MEASURES)
_CONTRIBUTIONS: Final = MEASURES.index("contributions")
ENTRY: Final = (
    f"SELECT id, task, round, holder, outcome, crashes, expires_at, {names('granted')}, "  # noqa: S608
    f"{names('spent')}, {names('stride')} FROM ledger_entries"
)
INSERT: Final = (
    "INSERT INTO ledger_entries(task, round, holder, outcome, crashes, opened_wall, expires_at, "
    f"counted_at, noise_multiplier, rho, {names('held')}, {names('granted')}, {names('spent')}, "
    f"{names('stride')}) VALUES({', '.join('?' * (10 + 4 * _COUNT))})"
)
WRITE: Final = (
    "UPDATE ledger_entries SET holder = ?, crashes = ?, counted_at = max(counted_at, ?), "  # noqa: S608
    f"{assignments('held')}, {assignments('granted')}, {assignments('spent')}, "
    f"{assignments('stride')} WHERE id = ?"
)
SETTLE: Final = (
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
    return Amounts(
        **{
            name: value if name in ("cpu_seconds", "wall_seconds", "joules") else int(value)
            for name, value in zip(MEASURES, values, strict=True)
        }
    )


def reservation_of(row: tuple[Any, ...]) -> Reservation:
    """Return the reservation of a row of :data:`ENTRY`."""
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
