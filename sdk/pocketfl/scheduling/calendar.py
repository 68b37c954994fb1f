"""What the scheduler remembers: for each task when it may be tried again, and when it had its turn.

A wait is kept as its start and its end by the device's clock. When the clock is found before the start,
it was set back, and the wait starts afresh with the same length: a device is never put off for longer
than it was told, wherever its clock jumps.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from pocketfl.database import Database, Tables

EVERYTHING: Final = ""
"""The name of the wait that holds for all tasks; no task has it."""

WHY_LIMIT: Final = 300

TABLES: Final = Tables(
    name="scheduling",
    steps=(
        (
            """
            CREATE TABLE schedule(
                task TEXT PRIMARY KEY,
                set_at REAL NOT NULL,
                not_before REAL NOT NULL,
                verdict TEXT NOT NULL,
                why TEXT NOT NULL,
                turn INTEGER NOT NULL
            ) WITHOUT ROWID
            """,
        ),
    ),
)


@dataclass(frozen=True, kw_only=True)
class Entry:
    """Where a task stands.

    Attributes
    ----------
    not_before : float
        Unix time in seconds of the next try.
    verdict, why : str
        What the wait is for: for programs, and in a sentence.
    turn : int
        Number of the task's last turn among all turns; 0 if it had none.
    """

    not_before: float
    verdict: str
    why: str
    turn: int


_NEVER: Final = Entry(not_before=0.0, verdict="waiting", why="not tried yet", turn=0)


class Calendar:
    """The scheduler's memory in the device's file.

    Parameters
    ----------
    database : Database
        Where it is kept; not within a transaction, because the tables are made now.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        database.ensure(TABLES)

    def entries(self, tasks: Iterable[str], *, now: float) -> dict[str, Entry]:
        """Return where tasks and :data:`EVERYTHING` stand."""
        rows = self._database.query(
            "SELECT task, set_at, not_before, verdict, why, turn FROM schedule"
        )
        if any(set_at > now for _, set_at, *_ in rows):
            with self._database.transaction() as connection:
                connection.execute(
                    "UPDATE schedule SET not_before = ? + max(0, not_before - set_at), set_at = ? "
                    "WHERE set_at > ?",
                    (now, now, now),
                )
            return self.entries(tasks, now=now)
        known = {
            task: Entry(not_before=not_before, verdict=verdict, why=why, turn=turn)
            for task, _, not_before, verdict, why, turn in rows
        }
        return {task: known.get(task, _NEVER) for task in (EVERYTHING, *tasks)}

    def put_off(self, task: str, *, now: float, seconds: float, verdict: str, why: str) -> None:
        """Let a task, or :data:`EVERYTHING`, wait from now on.

        Parameters
        ----------
        task : str
            Which.
        now : float
            Unix time in seconds.
        seconds : float
            How long.
        verdict, why : str
            What for.
        """
        with self._database.transaction() as connection:
            connection.execute(
                "INSERT INTO schedule(task, set_at, not_before, verdict, why, turn) "
                "VALUES(?, ?, ?, ?, ?, 0) ON CONFLICT(task) DO UPDATE SET "
                "set_at = excluded.set_at, not_before = excluded.not_before, "
                "verdict = excluded.verdict, why = excluded.why",
                (task, now, now + seconds, verdict, why[:WHY_LIMIT]),
            )

    def take_turn(self, tasks: Iterable[str], *, now: float) -> None:
        """Put tasks at the end of the queue."""
        with self._database.transaction() as connection:
            ((turn,),) = connection.execute("SELECT coalesce(max(turn), 0) + 1 FROM schedule")
            connection.executemany(
                "INSERT INTO schedule(task, set_at, not_before, verdict, why, turn) "
                "VALUES(?, ?, ?, 'waiting', '', ?) "
                "ON CONFLICT(task) DO UPDATE SET turn = excluded.turn",
                [(task, now, now, turn) for task in sorted(tasks)],
            )

    def forget_own_waits(self) -> None:
        """End every wait but those that the server asked for; whose turn it is stays."""
        with self._database.transaction() as connection:
            connection.execute("UPDATE schedule SET not_before = set_at WHERE verdict <> 'told'")
