"""The device's own log: how often each event happened on each of the last days, and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from pocketfl.database import Database, Tables
from pocketfl.funnel.events import event
from pocketfl.process_mark import is_running, process_mark
from pocketfl.queries.spec import FunnelEvent

TABLES: Final = Tables(
    name="funnel",
    steps=(
        (
            """
            CREATE TABLE funnel_counts(
                day INTEGER NOT NULL,
                phase TEXT NOT NULL,
                reason TEXT NOT NULL,
                count INTEGER NOT NULL,
                PRIMARY KEY(day, phase, reason)
            ) WITHOUT ROWID
            """,
            """
            CREATE TABLE funnel_days(
                day INTEGER PRIMARY KEY,
                task TEXT NOT NULL,
                round INTEGER NOT NULL
            )
            """,
        ),
    ),
)

_DAY: Final = 86_400
_KEPT_DAYS: Final = 8
_RUNNING_STATE: Final = "funnel.running"


class DayLog:
    """Counts events by day (UTC); every method joins the caller's transaction.

    Parameters
    ----------
    database : Database
        The device's file.
    clock : callable
        Unix time in seconds.
    """

    def __init__(self, database: Database, *, clock: Callable[[], float]) -> None:
        self._database = database
        self._clock = clock
        self._tidied: int | None = None

    def count(self, events: Iterable[FunnelEvent]) -> None:
        """Add one to each of some events, today."""
        today = self.day_of(self._clock())
        with self._database.transaction() as connection:
            self._database.ensure(TABLES)
            values = [v for happened in events for v in (today, happened.phase, happened.reason)]
            if values:
                rows = ", ".join(["(?, ?, ?, 1)"] * (len(values) // 3))
                connection.execute(
                    f"INSERT INTO funnel_counts(day, phase, reason, count) VALUES {rows} "  # noqa: S608
                    "ON CONFLICT(day, phase, reason) DO UPDATE SET count = count + 1",
                    values,
                )
            # Once a day is enough; should this transaction be undone, so is the next day's.
            if self._tidied != today:
                connection.execute("DELETE FROM funnel_counts WHERE day < ?", (today - _KEPT_DAYS,))
                self._tidied = today

    def counts(self, day: int) -> dict[FunnelEvent, int]:
        """Return how often each event happened on a day, counted in days since 1970."""
        self._database.ensure(TABLES)
        rows = self._database.query(
            "SELECT phase, reason, count FROM funnel_counts WHERE day = ?", (day,)
        )
        return {
            FunnelEvent(phase=phase, reason=reason): int(count) for phase, reason, count in rows
        }

    def claim(self, day: int, *, task: str, round: int) -> bool:  # noqa: A002
        """Set a day aside for one report, for good.

        Returns
        -------
        bool
            False if it was set aside for another one: a day is reported once, whoever asks.
        """
        with self._database.transaction() as connection:
            self._database.ensure(TABLES)
            connection.execute(
                "INSERT INTO funnel_days(day, task, round) VALUES(?, ?, ?) ON CONFLICT DO NOTHING",
                (day, task, round),
            )
            connection.execute(
                "DELETE FROM funnel_days WHERE day < ?",
                (self.day_of(self._clock()) - 400,),
            )
            rows = connection.execute(
                "SELECT task, round FROM funnel_days WHERE day = ?", (day,)
            ).fetchall()
        return rows == [(task, round)]

    def open(self, events: Iterable[FunnelEvent]) -> None:
        """Remember that a session is under way in this process, and count some events."""
        with self._database.transaction():
            self._database.write_state(_RUNNING_STATE, process_mark())
            self.count(events)

    def is_open(self) -> bool:
        """Return whether a session is under way, or was when its process ended."""
        return self._database.read_state(_RUNNING_STATE) is not None

    def was_killed(self) -> bool:
        """Return whether a session was under way when its process ended, in whatever process."""
        mark = self._database.read_state(_RUNNING_STATE)
        # A mark of this process is that of a run before, as the caller has none under way.
        return mark is not None and (mark == process_mark() or not is_running(mark))

    def bury(self) -> None:
        """Count a session that ended with its process, once."""
        with self._database.transaction():
            # Another process may have been quicker.
            if self.was_killed():
                self._database.delete_state(_RUNNING_STATE)
                self.count([event("interrupted", "killed")])

    def close(self, events: Iterable[FunnelEvent]) -> None:
        """Remember that no session is under way in this process any more, and count some events."""
        with self._database.transaction() as connection:
            connection.execute(
                "DELETE FROM device_state WHERE name = ? AND value = ?",
                (_RUNNING_STATE, process_mark()),
            )
            self.count(events)

    @staticmethod
    def day_of(moment: float) -> int:
        """Return the day (UTC) of a Unix time, counted from 1970."""
        return int(moment // _DAY)
