"""Schedules: a task that is started opens its rounds by itself, until it is stopped or has ended.

What is on record is how rounds follow one another and how many were opened; when the next one is due
follows from that and from the end of the last round. So there is nothing that a restart could forget.
With several gateways every one looks, and a round is opened in the transaction that counts it, by
whoever counts first.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Final

from sqlalchemy import Connection, bindparam, select
from sqlalchemy.exc import IntegrityError

from pocketfl.protocol import RoundNotice
from pocketfl_server.daily_hours import DailyHours
from pocketfl_server.database import Database, schedules
from pocketfl_server.errors import Conflict, Malformed
from pocketfl_server.pauses import Pauses
from pocketfl_server.records import NextStep, RoundResult, Schedule, ScheduleRecord
from pocketfl_server.retries import Retries
from pocketfl_server.rounds import Rounds
from pocketfl_server.tasks import Tasks
from pocketfl_server.trusted.client import TrustedTier
from pocketfl_server.trusted.refusals import BudgetExhausted

logger: Final = logging.getLogger(__name__)

STOPPED: Final = "stopped"
ALL_OPENED: Final = "all_rounds_opened"

_ONE = select(schedules).where(schedules.c.task == bindparam("task"))
_RUNNING = select(schedules).where(schedules.c.ended_at.is_(None)).order_by(schedules.c.task)
_COUNT = (
    schedules.update()
    .where(
        schedules.c.task == bindparam("its_task"),
        schedules.c.opened == bindparam("seen"),
        schedules.c.started_at == bindparam("since"),
        schedules.c.ended_at.is_(None),
    )
    .values(opened=bindparam("seen") + 1)
)
_END = (
    schedules.update()
    .where(schedules.c.task == bindparam("its_task"), schedules.c.ended_at.is_(None))
    .values(ended_at=bindparam("now"), reason=bindparam("why"))
)
_STOPPED = select(schedules.c.task).where(
    schedules.c.task == bindparam("task"), schedules.c.ended_at.is_not(None)
)


class Schedules:
    """Starts and stops tasks, and opens the rounds of those that are started.

    Parameters
    ----------
    database, tasks, rounds, pauses
        Where things are kept.
    trusted : TrustedTier
        Is asked before each round whether the budgets allow its release.
    """

    def __init__(
        self,
        database: Database,
        task_list: Tasks,
        round_list: Rounds,
        pauses: Pauses,
        *,
        trusted: TrustedTier,
    ) -> None:
        self._database = database
        self._tasks = task_list
        self._rounds = round_list
        self._pauses = pauses
        self._trusted = trusted
        self._retries = Retries[str]()
        insert = database.insert(schedules)
        changed = [column.name for column in schedules.c if column.name != "task"]
        self._upsert = insert.on_conflict_do_update(
            index_elements=[schedules.c.task],
            set_={name: insert.excluded[name] for name in changed},
        )

    def start(self, task: str, schedule: Schedule, *, now: float) -> None:
        """Have a task's rounds opened from now on; the same again changes nothing while it runs.

        Another schedule replaces the one that runs and counts its rounds from the beginning. A round
        that is under way stays as it is.

        Raises
        ------
        NotFound
            If there is no such task.
        Conflict
            With code ``task_finished``.
        Malformed
            If asynchronous rounds are to pause, to be counted or to keep hours.
        """
        record = self._tasks.get(task)
        if record.state != "active":
            raise Conflict(
                f"task {task!r} is finished ({record.finished_reason})", code="task_finished"
            )
        if record.concurrency is not None and schedule != Schedule(
            round_seconds=schedule.round_seconds
        ):
            raise Malformed(
                f"asynchronous rounds, as those of {task!r}, follow one another at once: only "
                "round_seconds goes with them",
                code="wrong_settings",
            )
        row = self._row(task)
        if row is not None and row["ended_at"] is None and _schedule(row) == schedule:
            return
        with self._database.writing() as connection:
            connection.execute(
                self._upsert,
                {
                    "task": task,
                    **asdict(schedule),
                    "opened": 0,
                    "started_at": now,
                    "ended_at": None,
                    "reason": None,
                },
            )
        self._retries.forget(task)

    def stop(self, task: str, *, now: float) -> None:
        """Open no further round; one that is under way goes on to its end.

        Raises
        ------
        NotFound
            If there is no such task.
        """
        self._tasks.get(task)
        self._end(task, STOPPED, now=now)

    def record(self, task: str, *, now: float) -> ScheduleRecord:
        """Say what was asked for, what came of it, and what happens next."""
        state = self._tasks.get(task)
        row, last = self._row(task), self._rounds.last(task)
        schedule = None if row is None else _schedule(row)
        under_way = None if last is None or last.ended_at is not None else last
        reason = state.finished_reason or (None if row is None else row["reason"])
        ended = state.state != "active" or (row is not None and row["ended_at"] is not None)
        step: NextStep = "nothing"
        at = following = None
        if row is not None and schedule is not None and not ended:
            step, following = "round_opens", self._due(row, schedule, last, now=now)
            if schedule.rounds is not None and row["opened"] >= schedule.rounds:
                step, following = "nothing", None
            elif self._is_paused(task):
                step, following = "resume", None
            at = following
        if under_way is not None:
            step, at = "round_closes", under_way.closes_at
        return ScheduleRecord(
            task=task,
            schedule=schedule,
            state="ended" if ended else "never_started" if row is None else "running",
            reason=reason if ended else None,
            opened=0 if row is None else int(row["opened"]),
            started_at=None if row is None else row["started_at"],
            ended_at=None if row is None else row["ended_at"],
            round=None if under_way is None else under_way.round,
            next=step,
            next_at=at,
            following_at=None if under_way is None else following,
        )

    def open_due(self, *, now: float, only: str | None = None) -> list[RoundNotice]:
        """Open the round of every started task for which it is time.

        A task whose budgets allow no further release is finished instead, before devices work for
        nothing. Where the trusted tier is away nothing is opened; later calls try again, ever less
        often.

        Parameters
        ----------
        now : float
            Unix time in seconds.
        only : str, optional
            Look at this task alone, at once.
        """
        with self._database.reading() as connection:
            running = connection.execute(_RUNNING).mappings().all()
        opened = []
        for row in running:
            task = str(row["task"])
            wanted = self._retries.is_due(task, now=now) if only is None else task == only
            if not wanted:
                continue
            try:
                notice = self._open(row, now=now)
                self._retries.forget(task)
            except Exception as error:
                self._retries.failed(task, now=now)
                logger.warning(
                    "no round of task %s can be opened yet: %s: %s",
                    task,
                    type(error).__name__,
                    error,
                )
            else:
                opened += [] if notice is None else [notice]
        return opened

    def _open(self, row: Mapping[Any, Any], *, now: float) -> RoundNotice | None:
        task, schedule = str(row["task"]), _schedule(row)
        last = self._rounds.last(task)
        if last is not None and last.ended_at is None:
            return None
        state = self._tasks.get(task)
        if state.state != "active":
            self._end(task, state.finished_reason or STOPPED, now=now)
            return None
        if schedule.rounds is not None and row["opened"] >= schedule.rounds:
            self._end(task, ALL_OPENED, now=now)
            return None
        if self._is_paused(task) or self._due(row, schedule, last, now=now) > now:
            return None
        if not self._trusted.describe(task).affords_next:
            with self._database.writing() as connection:
                self._tasks.finish(connection, task, BudgetExhausted.default_code)
            self._end(task, BudgetExhausted.default_code, now=now)
            logger.info("task %s is finished: its budget allows no further release", task)
            return None
        closes_at = now + schedule.round_seconds
        if schedule.hours is not None:
            hours = DailyHours.parse(schedule.hours)
            closes_at = hours.closing(now, seconds=schedule.round_seconds)
        try:
            with self._database.writing() as connection:
                seen = {"its_task": task, "seen": row["opened"], "since": row["started_at"]}
                if connection.execute(_COUNT, seen).rowcount == 0:
                    return None  # another gateway was quicker, or somebody stopped it
                number = self._rounds.insert(connection, task, closes_at=closes_at, now=now)
        except IntegrityError:
            return None  # somebody opened one by hand
        return self._rounds.notice(task, number)

    def _due(
        self, row: Mapping[Any, Any], schedule: Schedule, last: RoundResult | None, *, now: float
    ) -> float:
        """Return when the next round opens: after the last one's end, or where it is to end."""
        due = float(row["started_at"])
        if last is not None:
            due = max(due, (last.ended_at or last.closes_at) + schedule.pause_seconds)
        if schedule.hours is None:
            return due
        return DailyHours.parse(schedule.hours).opening(
            max(due, now), seconds=schedule.round_seconds
        )

    def _is_paused(self, task: str) -> bool:
        return any(pause.task in (None, task) for pause in self._pauses.all())

    def _row(self, task: str) -> Mapping[Any, Any] | None:
        with self._database.reading() as connection:
            return connection.execute(_ONE, {"task": task}).mappings().first()

    def _end(self, task: str, reason: str, *, now: float) -> None:
        with self._database.writing() as connection:
            connection.execute(_END, {"its_task": task, "why": reason, "now": now})


def is_stopped(connection: Connection, task: str) -> bool:
    """Say whether a task was started once and has been stopped since."""
    return connection.execute(_STOPPED, {"task": task}).first() is not None


def _schedule(row: Mapping[Any, Any]) -> Schedule:
    return Schedule(
        round_seconds=row["round_seconds"],
        pause_seconds=row["pause_seconds"],
        rounds=row["rounds"],
        hours=row["hours"],
    )
