"""The tables of receipts, and how their rows are read: by the app, and by an audit from outside."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any, Final, TypeAlias

from pocketfl.database import Tables
from pocketfl.decoding import decode
from pocketfl.receipts.receipt import Contribution, Overhead, Receipt

Query: TypeAlias = Callable[[str, Sequence[Any]], list[tuple[Any, ...]]]

# The examples' collection is kept under another name on purpose: receipts tell what was sent, and stay
# when a collection and everything derived from its examples is erased.
_COLUMN_OF: Final = {"collection": "trained_on"}

CONTRIBUTION_FIELDS: Final = tuple(field.name for field in fields(Contribution))
_RECEIPT_FIELDS: Final = tuple(field.name for field in fields(Receipt))


def column(field: str) -> str:
    """Return the column that holds a field of a receipt."""
    return _COLUMN_OF.get(field, field)


TABLES: Final = Tables(
    name="receipts",
    steps=(
        (
            """
            CREATE TABLE receipts(
                id INTEGER PRIMARY KEY,
                task TEXT NOT NULL,
                round INTEGER NOT NULL,
                kind TEXT NOT NULL,
                plan_name TEXT NOT NULL,
                plan_version TEXT NOT NULL,
                plan_sha256 TEXT NOT NULL,
                model_version INTEGER NOT NULL,
                trained_on TEXT NOT NULL,
                report_bytes INTEGER NOT NULL,
                report_sha256 TEXT NOT NULL,
                privacy TEXT NOT NULL,
                clip_norm REAL NOT NULL,
                cohort_floor INTEGER NOT NULL,
                noise_multiplier REAL,
                epsilon REAL,
                epsilon_so_far REAL,
                delta REAL,
                aggregator_key_id TEXT NOT NULL,
                attestation TEXT NOT NULL,
                prepared_at REAL NOT NULL,
                outcome TEXT NOT NULL DEFAULT 'prepared',
                code TEXT,
                settled_at REAL,
                uploads INTEGER NOT NULL DEFAULT 0,
                bytes_up INTEGER NOT NULL DEFAULT 0,
                bytes_down INTEGER NOT NULL DEFAULT 0,
                UNIQUE(task, round)
            )
            """,
            """
            CREATE TABLE protocol_overhead(
                day INTEGER NOT NULL,
                kind TEXT NOT NULL,
                requests INTEGER NOT NULL,
                bytes_up INTEGER NOT NULL,
                bytes_down INTEGER NOT NULL,
                PRIMARY KEY(day, kind)
            ) WITHOUT ROWID
            """,
            """
            CREATE TABLE accounted_traffic(
                id INTEGER PRIMARY KEY,
                session TEXT NOT NULL UNIQUE,
                sequence INTEGER NOT NULL
            )
            """,
        ),
    ),
)

_SELECT: Final = f"SELECT {', '.join(column(name) for name in _RECEIPT_FIELDS)} FROM receipts"  # noqa: S608


def read_receipts(query: Query) -> tuple[Receipt, ...]:
    """Return every receipt, oldest first.

    Raises
    ------
    DecodeError
        If a row is damaged.
    """
    return tuple(_receipt(row) for row in query(f"{_SELECT} ORDER BY id", ()))


def read_receipt(query: Query, *, task: str, round: int) -> Receipt | None:  # noqa: A002
    """Return the receipt of a round, or None.

    Raises
    ------
    DecodeError
        If the row is damaged.
    """
    rows = query(f"{_SELECT} WHERE task = ? AND round = ?", (task, round))
    return _receipt(rows[0]) if rows else None


def read_overhead(query: Query) -> tuple[Overhead, ...]:
    """Return what each kind of request cost besides the contributions, by name.

    Raises
    ------
    DecodeError
        If a row is damaged.
    """
    rows = query(
        "SELECT kind, sum(requests), sum(bytes_up), sum(bytes_down) FROM protocol_overhead "
        "GROUP BY kind ORDER BY kind",
        (),
    )
    names = ("kind", "requests", "bytes_up", "bytes_down")
    return tuple(
        decode(Overhead, dict(zip(names, row, strict=True)), what="protocol overhead")
        for row in rows
    )


def _receipt(row: tuple[Any, ...]) -> Receipt:
    named = zip(_RECEIPT_FIELDS, row, strict=True)
    stated = {name: value for name, value in named if value is not None}
    what = f"receipt of round {stated.get('round')} of {stated.get('task')!r}"
    return decode(Receipt, stated, what=what)
