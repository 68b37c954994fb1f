"""The ledger's tables, and the columns that every measure has in them."""

from __future__ import annotations

from typing import Final

from pocketfl.budgets.amounts import MEASURES
from pocketfl.database import Tables

DAY: Final = 86_400.0
MONTH: Final = 30 * DAY
YEAR: Final = 365 * DAY
KEPT_SECONDS: Final = 400 * DAY
"""Entries older than this are folded into their task's total: no window reaches back to them."""
KEPT_REFUSALS: Final = 1000

# The names below are constants of this package, so a step that was released never changes; a
# measure that is added later comes with a step of its own.
_FIRST_MEASURES: Final = (
    "cpu_seconds",
    "wall_seconds",
    "bytes_up",
    "bytes_up_metered",
    "bytes_down_metered",
    "bytes_down_unmetered",
    "joules",
    "contributions",
    "peak_memory_bytes",
    "storage_bytes",
)


def _columns(prefix: str) -> str:
    return ", ".join(f"{prefix}_{name} REAL NOT NULL" for name in _FIRST_MEASURES)


LEDGER: Final = Tables(
    name="ledger",
    steps=(
        (
            """
            CREATE TABLE ledger_clock(
                id INTEGER PRIMARY KEY CHECK(id = 1),
                time REAL NOT NULL,
                wall REAL NOT NULL,
                boot TEXT,
                uptime REAL,
                owed REAL NOT NULL
            )
            """,
            # `holder` is the process that may go on spending, NULL once settled. `counted_at` is
            # when the windows begin to run: for an entry that is open, when it ends at the latest.
            # `held` is what the windows add up: the most that the entry can come to, later what it
            # came to.
            f"""
            CREATE TABLE ledger_entries(
                id INTEGER PRIMARY KEY AUTOINCREMENT,
                task TEXT NOT NULL,
                round INTEGER NOT NULL,
                holder TEXT,
                outcome TEXT NOT NULL,
                crashes INTEGER NOT NULL,
                opened_wall REAL NOT NULL,
                expires_at REAL NOT NULL,
                counted_at REAL NOT NULL,
                noise_multiplier REAL,
                rho REAL NOT NULL,
                {_columns("held")},
                {_columns("granted")},
                {_columns("spent")},
                {_columns("stride")}
            )
            """,
            "CREATE INDEX ledger_entries_by_time ON ledger_entries(counted_at, rho)",
            "CREATE INDEX ledger_entries_by_round ON ledger_entries(task, round)",
            "CREATE TABLE ledger_tasks(task TEXT PRIMARY KEY, contributions INTEGER NOT NULL)",
            """
            CREATE TABLE ledger_refusals(
                id INTEGER PRIMARY KEY AUTOINCREMENT,
                wall REAL NOT NULL,
                task TEXT NOT NULL,
                round INTEGER NOT NULL,
                reasons TEXT NOT NULL
            )
            """,
        ),
    ),
)


def names(prefix: str) -> str:
    """Return the columns of a prefix for a SELECT or INSERT, in the order of MEASURES."""
    return ", ".join(f"{prefix}_{name}" for name in MEASURES)


def assignments(prefix: str) -> str:
    """Return the columns of a prefix for an UPDATE, in the order of MEASURES."""
    return ", ".join(f"{prefix}_{name} = ?" for name in MEASURES)
