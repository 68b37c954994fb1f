"""Rounds as they are on record: opening one, the notices that everybody reads, counts."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, and_, bindparam, func, or_, select
from sqlalchemy.exc import IntegrityError

from pocketfl.plan import Manifest
from pocketfl.protocol import AggregatorKey, RoundNotice
from pocketfl.reports import report_size
from pocketfl_server.database import (
    Database,
    check_ins,
    clip_norms,
    models,
    reports,
    round_counts,
    rounds,
    tasks,
)
from pocketfl_server.errors import Conflict, Malformed, NotFound
from pocketfl_server.leases import LEASE_KEY_BYTES, ROUND_ID_BYTES
from pocketfl_server.records import MAX_ROUND_SECONDS, Funnel, RoundResult
from pocketfl_server.registry import Registry
from pocketfl_server.tasks import Tasks

_MAX_REMEMBERED: Final = 1024

_INSERT = rounds.insert()
_ONE = select(rounds).where(
    rounds.c.task == bindparam("task"), rounds.c.number == bindparam("number")
)
_ALL = select(rounds).where(rounds.c.task == bindparam("task")).order_by(rounds.c.number)
_LAST = (
    select(rounds)
    .where(rounds.c.task == bindparam("task"))
    .order_by(rounds.c.number.desc())
    .limit(1)
)
_UNDER_WAY = select(rounds).where(
    rounds.c.task == bindparam("task"), rounds.c.state.in_(("open", "closing", "aborting"))
)
_DUE = (
    select(rounds.c.task, rounds.c.number)
    .where(
        or_(
            rounds.c.state.in_(("closing", "aborting")),
            and_(rounds.c.state == "open", rounds.c.closes_at <= bindparam("now")),
        )
    )
    .order_by(rounds.c.closes_at)
)
_LAST_NUMBER = select(func.coalesce(func.max(rounds.c.number), 0)).where(
    rounds.c.task == bindparam("task")
)
_WITH_MODEL = (
    select(
        rounds.c.id,
        rounds.c.task,
        rounds.c.number,
        rounds.c.model_version,
        rounds.c.closes_at,
        rounds.c.lease_key,
        tasks.c.plan_sha256,
        tasks.c.key_id,
        tasks.c.public_key,
        models.c.parameters_sha256,
        clip_norms.c.clip_norm,
    )
    .join_from(rounds, tasks, rounds.c.task == tasks.c.name)
    .join(
        models,
        and_(models.c.task == rounds.c.task, models.c.version == rounds.c.model_version),
    )
    .outerjoin(
        clip_norms,
        and_(clip_norms.c.task == models.c.task, clip_norms.c.version == models.c.version),
    )
)
_FACTS_BY_NUMBER = _WITH_MODEL.where(
    rounds.c.task == bindparam("task"), rounds.c.number == bindparam("number")
)
_FACTS_BY_ID = _WITH_MODEL.where(rounds.c.id == bindparam("id"))
_OPEN = _WITH_MODEL.where(rounds.c.state == "open", rounds.c.closes_at > bindparam("now")).order_by(
    rounds.c.task
)
_COUNTS = select(round_counts.c.stage, round_counts.c.reason, round_counts.c.count).where(
    round_counts.c.task == bindparam("task"), round_counts.c.round == bindparam("number")
)
_COUNT_LEASES = select(func.count()).where(check_ins.c.round_id == bindparam("id"))
_COUNT_REPORTS = select(func.count()).where(reports.c.round_id == bindparam("id"))


@dataclass(frozen=True, kw_only=True, repr=False)
class RoundFacts:
    """What never changes about a round, so that it is read once; not printed, for the lease key."""

    id: bytes
    task: str
    number: int
    model_version: int
    closes_at: float
    lease_key: bytes
    plan_sha256: str
    parameters_sha256: str
    aggregator: AggregatorKey
    plan_schema: int
    runtimes: frozenset[str]
    report_bytes: int
    clip_norm: float | None
    max_staleness: int | None
    """Of asynchronous rounds; else None."""


class Rounds:
    """Opens rounds and reads what is on record about them.

    Parameters
    ----------
    database, tasks, registry
        Where things are kept.
    """

    def __init__(self, database: Database, task_list: Tasks, registry: Registry) -> None:
        self._database = database
        self._tasks = task_list
        self._registry = registry
        self._by_number: dict[tuple[str, int], RoundFacts] = {}
        self._by_id: dict[bytes, RoundFacts] = {}

    def open(
        self, task: str, *, seconds: float, now: float, number: int | None = None
    ) -> RoundNotice:
        """Open a task's next round.

        Parameters
        ----------
        task : str
            Name of the task.
        seconds : float
            After which the round closes.
        number : int, optional
            Of the round, above those before it; by default the next.

        Raises
        ------
        NotFound
            If there is no such task.
        Conflict
            With code ``task_finished``, ``round_under_way`` or ``round_over``.
        Malformed
            If the time is out of bounds.
        """
        if not 0 < seconds <= MAX_ROUND_SECONDS:
            raise Malformed(f"a round lasts more than 0 and at most {MAX_ROUND_SECONDS} seconds")
        record = self._tasks.get(task)
        if record.state != "active":
            raise Conflict(
                f"task {task!r} is finished ({record.finished_reason})", code="task_finished"
            )
        try:
            with self._database.writing() as connection:
                number = self.insert(
                    connection, task, closes_at=now + seconds, now=now, number=number
                )
        except IntegrityError:
            raise Conflict(
                f"task {task!r} has a round under way; close or abort it first",
                code="round_under_way",
            ) from None
        return self.notice(task, number)

    def insert(
        self,
        connection: Connection,
        task: str,
        *,
        closes_at: float,
        now: float,
        number: int | None = None,
    ) -> int:
        """Add a task's next round within a transaction; returns its number.

        Raises
        ------
        IntegrityError
            If a round of the task is under way.
        Conflict
            If the number is not above those of the rounds before.
        """
        following = int(connection.execute(_LAST_NUMBER, {"task": task}).scalar_one()) + 1
        number = following if number is None else number
        if not following <= number < 2**31:
            raise Conflict(
                f"rounds up to {following - 1} of task {task!r} have been; {number} is not above them",
                code="round_over",
            )
        connection.execute(
            _INSERT,
            {
                "task": task,
                "number": number,
                "id": secrets.token_bytes(ROUND_ID_BYTES),
                "state": "open",
                "model_version": self._registry.latest(connection, task),
                "opened_at": now,
                "closes_at": closes_at,
                "lease_key": secrets.token_bytes(LEASE_KEY_BYTES),
            },
        )
        return number

    def notice(self, task: str, number: int) -> RoundNotice:
        """Return a round as devices read of it."""
        return _notice(self._required_facts(task, number))

    def open_rounds(self, *, now: float) -> tuple[RoundNotice, ...]:
        """Return all open rounds, by task."""
        with self._database.reading() as connection:
            rows = connection.execute(_OPEN, {"now": now}).mappings().all()
        return tuple(_notice(self._facts(row)) for row in rows)

    def facts(self, task: str, number: int) -> RoundFacts | None:
        """Return what never changes about a round, or None if there is no such round."""
        known = self._by_number.get((task, number))
        if known is not None:
            return known
        if not 1 <= number < 2**31:
            return None
        with self._database.reading() as connection:
            row = (
                connection.execute(_FACTS_BY_NUMBER, {"task": task, "number": number})
                .mappings()
                .first()
            )
        return None if row is None else self._facts(row)

    def facts_of_id(self, round_id: bytes) -> RoundFacts | None:
        """Return what never changes about the round with this random id, or None."""
        known = self._by_id.get(round_id)
        if known is not None:
            return known
        with self._database.reading() as connection:
            row = connection.execute(_FACTS_BY_ID, {"id": round_id}).mappings().first()
        return None if row is None else self._facts(row)

    def result(self, task: str, number: int) -> RoundResult:
        """Return what is on record about a round.

        Raises
        ------
        NotFound
            With code ``unknown_task`` or ``unknown_round``.
        """
        row = None
        if 1 <= number < 2**31:
            with self._database.reading() as connection:
                row = connection.execute(_ONE, {"task": task, "number": number}).mappings().first()
        if row is None:
            self._tasks.get(task)
            raise NotFound(f"task {task!r} has no round {number}", code="unknown_round")
        return _result(row)

    def results(self, task: str) -> tuple[RoundResult, ...]:
        """Return every round of a task, oldest first."""
        self._tasks.get(task)
        with self._database.reading() as connection:
            rows = connection.execute(_ALL, {"task": task}).mappings().all()
        return tuple(_result(row) for row in rows)

    def last(self, task: str) -> RoundResult | None:
        """Return the newest round of a task, if there is any."""
        with self._database.reading() as connection:
            row = connection.execute(_LAST, {"task": task}).mappings().first()
        return None if row is None else _result(row)

    def under_way(self, task: str) -> RoundResult | None:
        """Return the round that is open or being ended, if any."""
        with self._database.reading() as connection:
            row = connection.execute(_UNDER_WAY, {"task": task}).mappings().first()
        return None if row is None else _result(row)

    def due(self, *, now: float) -> list[tuple[str, int]]:
        """Return task and number of each round past its deadline, or left half-ended by a crash."""
        with self._database.reading() as connection:
            return [(row.task, row.number) for row in connection.execute(_DUE, {"now": now})]

    def funnel(self, task: str, number: int) -> Funnel:
        """Count how many devices got how far; see :class:`~pocketfl_server.records.Funnel`."""
        self.result(task, number)
        facts = self._required_facts(task, number)
        with self._database.reading() as connection:
            rows = connection.execute(_COUNTS, {"task": task, "number": number}).all()
            counts = {(stage, reason): int(count) for stage, reason, count in rows}
            leases, uploaded = count_participants(connection, facts)
        leases = counts.get(("leases", ""), leases)
        turned_away = _by_reason(counts, "turned_away")
        return Funnel(
            task=task,
            round=number,
            checked_in=leases + sum(turned_away.values()),
            turned_away=turned_away,
            leases=leases,
            uploaded=counts.get(("uploaded", ""), uploaded),
            accepted=counts.get(("accepted", "")),
            rejected=_by_reason(counts, "rejected"),
        )

    def _required_facts(self, task: str, number: int) -> RoundFacts:
        facts = self.facts(task, number)
        if facts is None:
            raise NotFound(f"task {task!r} has no round {number}", code="unknown_round")
        return facts

    def _facts(self, row: Mapping[Any, Any]) -> RoundFacts:
        known = self._by_id.get(bytes(row["id"]))
        if known is not None:
            return known
        manifest = self._tasks.manifest(row["plan_sha256"])
        facts = RoundFacts(
            id=bytes(row["id"]),
            task=row["task"],
            number=row["number"],
            model_version=row["model_version"],
            closes_at=row["closes_at"],
            lease_key=bytes(row["lease_key"]),
            plan_sha256=row["plan_sha256"],
            parameters_sha256=row["parameters_sha256"],
            aggregator=AggregatorKey(key_id=row["key_id"], public_key=row["public_key"]),
            plan_schema=manifest.schema,
            runtimes=frozenset(manifest.runtimes),
            report_bytes=report_size(manifest),
            clip_norm=row["clip_norm"],
            max_staleness=_max_staleness(manifest),
        )
        if len(self._by_id) >= _MAX_REMEMBERED:
            self._by_id.clear()
            self._by_number.clear()
        self._by_id[facts.id] = facts
        self._by_number[facts.task, facts.number] = facts
        return facts


def count_participants(connection: Connection, facts: RoundFacts) -> tuple[int, int]:
    """Return how many leases were given out and how many reports came, before they are deleted."""
    leases = connection.execute(_COUNT_LEASES, {"id": facts.id}).scalar_one()
    uploaded = connection.execute(_COUNT_REPORTS, {"id": facts.id}).scalar_one()
    return int(leases), int(uploaded)


def _max_staleness(manifest: Manifest) -> int | None:
    spec = manifest.aggregation.asynchronous
    return None if spec is None else spec.max_staleness


def _by_reason(counts: Mapping[tuple[str, str], int], wanted: str) -> dict[str, int]:
    return {reason: count for (stage, reason), count in sorted(counts.items()) if stage == wanted}


def _notice(facts: RoundFacts) -> RoundNotice:
    return RoundNotice(
        task=facts.task,
        round=facts.number,
        plan_sha256=facts.plan_sha256,
        parameters_sha256=facts.parameters_sha256,
        model_version=facts.model_version,
        closes_at=facts.closes_at,
        clip_norm=facts.clip_norm,
    )


def _result(row: Mapping[Any, Any]) -> RoundResult:
    return RoundResult(
        task=row["task"],
        round=row["number"],
        state=row["state"],
        reason=row["reason"],
        model_version=row["model_version"],
        new_version=row["new_version"],
        opened_at=row["opened_at"],
        closes_at=row["closes_at"],
        ended_at=row["ended_at"],
    )
