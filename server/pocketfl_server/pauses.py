"""Pauses: the operator keeps devices away from one task, or from all of them, until told otherwise."""

from __future__ import annotations

from typing import Final

from sqlalchemy import ColumnElement, Connection, bindparam, func, literal_column, or_, select

from pocketfl.protocol import Pause
from pocketfl_server.database import Database, pauses
from pocketfl_server.errors import Malformed
from pocketfl_server.records import PauseRecord, PauseRequest
from pocketfl_server.tasks import Tasks

EVERY_TASK: Final = ""
"""Stands for all tasks in the table; no task can have it as its name."""

NO_TASK: Final[ColumnElement[str]] = literal_column("''")

_ALL: Final = select(pauses).order_by(pauses.c.task)
_OF_TASK: Final = select(func.max(pauses.c.min_seconds), func.max(pauses.c.max_seconds)).where(
    or_(pauses.c.task == bindparam("task"), pauses.c.task == NO_TASK)
)
_RESUME: Final = pauses.delete().where(pauses.c.task == bindparam("paused_task"))


class Pauses:
    """Keeps pauses and says what is paused.

    Parameters
    ----------
    database, tasks
        Where things are kept.
    """

    def __init__(self, database: Database, task_list: Tasks) -> None:
        self._database = database
        self._tasks = task_list
        insert = database.insert(pauses)
        self._upsert = insert.on_conflict_do_update(
            index_elements=[pauses.c.task],
            set_={
                name: insert.excluded[name]
                for name in ("reason", "min_seconds", "max_seconds", "paused_at")
            },
        )

    def pause(self, task: str | None, request: PauseRequest, *, now: float) -> PauseRecord:
        """Keep devices away from a task, or from all; the same task again replaces its pause.

        Raises
        ------
        NotFound
            If there is no such task.
        Malformed
            If the reason or the window is out of bounds.
        """
        if task is not None:
            self._tasks.get(task)
        try:
            said = Pause(
                task=task,
                reason=request.reason,
                min_seconds=request.min_seconds,
                max_seconds=request.max_seconds,
            )
        except ValueError as error:
            raise Malformed(str(error)) from None
        record = PauseRecord(
            task=task,
            reason=said.reason,
            min_seconds=said.min_seconds,
            max_seconds=said.max_seconds,
            paused_at=now,
        )
        row = {**vars(record), "task": EVERY_TASK if task is None else task}
        with self._database.writing() as connection:
            connection.execute(self._upsert, row)
        return record

    def resume(self, task: str | None) -> tuple[PauseRecord, ...]:
        """End the pause of a task, or of all; returns the pauses that still hold.

        Raises
        ------
        NotFound
            If there is no such task.
        """
        if task is not None:
            self._tasks.get(task)
        with self._database.writing() as connection:
            connection.execute(_RESUME, {"paused_task": EVERY_TASK if task is None else task})
        return self.all()

    def all(self) -> tuple[PauseRecord, ...]:
        """Return every pause, that of the whole fleet first."""
        with self._database.reading() as connection:
            rows = connection.execute(_ALL).mappings().all()
        return tuple(PauseRecord(**{**row, "task": row["task"] or None}) for row in rows)

    def announced(self) -> tuple[Pause, ...]:
        """Return every pause as devices read it."""
        return tuple(
            Pause(
                task=record.task,
                reason=record.reason,
                min_seconds=record.min_seconds,
                max_seconds=record.max_seconds,
            )
            for record in self.all()
        )


def window_of(connection: Connection, task: str) -> tuple[float, float]:
    """Return the window, in seconds, in which devices come back to a task that is paused."""
    earliest, latest = connection.execute(_OF_TASK, {"task": task}).one()
    return float(earliest), float(latest)
