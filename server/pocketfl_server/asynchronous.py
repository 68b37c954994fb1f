"""Asynchronous rounds: who gets a slot, whose report is still taken, when there is enough to release.

A task of asynchronous rounds has one round that devices check in to, as any other, and is followed by
the next one as soon as it is released. What differs is what happens to those of earlier rounds: their
leases stay good, and their reports go into the next release, until the plan's ``max_staleness`` cuts
them off. So several model versions are in training at once.

How many devices that is, and how many reports make a release, are the three numbers of the task's
:class:`~pocketfl_server.records.Concurrency`.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from dataclasses import dataclass

from sqlalchemy import Connection, and_, bindparam, exists, func, or_, select

from pocketfl_server.database import (
    Database,
    asynchronous_tasks,
    check_ins,
    reports,
    rounds,
)
from pocketfl_server.leases import LEASE_KEY_BYTES, ROUND_ID_BYTES
from pocketfl_server.rounds import RoundFacts
from pocketfl_server.trusted.messages import SealedEntry

_UNDER_WAY = rounds.c.state.in_(("open", "closing", "aborting"))
_CURRENT = select(rounds.c.number).where(rounds.c.task == bindparam("task"), _UNDER_WAY)
_SINCE = (
    rounds.c.task == bindparam("task"),
    rounds.c.number >= bindparam("first"),
    rounds.c.closes_at > bindparam("now"),
)
_LEASES = select(func.count()).select_from(
    check_ins.join(rounds, check_ins.c.round_id == rounds.c.id)
)
_UPLOADED = select(func.count()).select_from(
    reports.join(rounds, reports.c.round_id == rounds.c.id)
)
_OF_DEVICE = (
    select(check_ins.c.device)
    .join_from(check_ins, rounds, check_ins.c.round_id == rounds.c.id)
    .where(
        check_ins.c.device == bindparam("device"),
        rounds.c.task == bindparam("task"),
        rounds.c.number >= bindparam("first"),
        rounds.c.number < bindparam("number"),
    )
    .limit(1)
)
_OUT = _LEASES.where(*_SINCE)
_BACK = _UPLOADED.where(*_SINCE)
_SLOTS = select(asynchronous_tasks).where(asynchronous_tasks.c.task == bindparam("task"))
_FILL = (
    asynchronous_tasks.update()
    .where(asynchronous_tasks.c.task == bindparam("its_task"))
    .values(filling=bindparam("fill"))
)
_WAITING = (
    reports.c.submitted.is_(False),
    reports.c.sealed.is_not(None),
)
_BUFFERED = _UPLOADED.where(
    rounds.c.task == bindparam("task"), rounds.c.number >= bindparam("first"), *_WAITING
)
_HELD = _UPLOADED.where(
    rounds.c.task == bindparam("task"),
    rounds.c.number >= bindparam("first"),
    reports.c.sealed.is_not(None),
)
_OPEN = (
    select(rounds.c.task, rounds.c.number, asynchronous_tasks.c.reports_per_release)
    .join_from(rounds, asynchronous_tasks, rounds.c.task == asynchronous_tasks.c.task)
    .where(rounds.c.state == "open")
)
_PENDING = (
    select(reports.c.lease, reports.c.sealed, rounds.c.number, rounds.c.model_version)
    .join_from(reports, rounds, reports.c.round_id == rounds.c.id)
    .where(rounds.c.task == bindparam("task"), rounds.c.number >= bindparam("first"), *_WAITING)
    .order_by(reports.c.lease)
    .limit(bindparam("page"))
)
_ITS_ROUNDS = select(rounds.c.id).where(rounds.c.task == bindparam("task"))
_FORGET_RELEASED = (
    reports.update()
    .where(reports.c.round_id.in_(_ITS_ROUNDS), reports.c.submitted.is_(True))
    .values(sealed=None)
)
_CUT_OFF = select(rounds.c.id, rounds.c.number).where(
    rounds.c.task == bindparam("task"),
    rounds.c.number < bindparam("first"),
    or_(
        exists().where(check_ins.c.round_id == rounds.c.id),
        exists().where(and_(reports.c.round_id == rounds.c.id, reports.c.sealed.is_not(None))),
    ),
)
_SPAN = select(rounds.c.closes_at - rounds.c.opened_at).where(rounds.c.id == bindparam("id"))
_INSERT = rounds.insert()


@dataclass(frozen=True, kw_only=True)
class Retired:
    """A round whose last leases have just been cut off."""

    id: bytes
    number: int


class AsynchronousRounds:
    """Reads and moves on what is on record about asynchronous rounds.

    Parameters
    ----------
    database : Database
        Where rounds, check-ins and reports are kept.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    # For devices.

    def admits(self, connection: Connection, facts: RoundFacts, *, now: float) -> bool:
        """Say whether a device may check in now: up to ``selection_size`` at once.

        Once all slots are taken, nobody is let in until ``open_slots`` of them are free. A slot is
        free again when its report has come, its lease has expired or its round is cut off.
        """
        slots = connection.execute(_SLOTS, {"task": facts.task}).one()
        window = {"task": facts.task, "first": _first(facts), "now": now}
        out = int(connection.execute(_OUT, window).scalar_one())
        back = int(connection.execute(_BACK, window).scalar_one())
        free = slots.selection_size - (out - back)
        filling = free > 0 and (bool(slots.filling) or free >= slots.open_slots)
        if filling != bool(slots.filling):
            connection.execute(_FILL, {"its_task": facts.task, "fill": filling})
        return filling

    def has_checked_in(self, connection: Connection, facts: RoundFacts, device: bytes) -> bool:
        """Say whether a device had a lease of an earlier round that is still good for a release.

        Devices keep away for longer than that by themselves. One that does not would have two reports
        that are not released.
        """
        where = {
            "device": device,
            "task": facts.task,
            "first": _first(facts),
            "number": facts.number,
        }
        return connection.execute(_OF_DEVICE, where).first() is not None

    def takes(self, connection: Connection, facts: RoundFacts) -> bool:
        """Say whether a report under a lease of this round can still get into a release."""
        current = connection.execute(_CURRENT, {"task": facts.task}).scalar()
        return current is not None and current <= facts.number + _staleness(facts)

    # For the coordinator.

    def ready(self, wanted: dict[tuple[str, int], int]) -> Iterator[tuple[str, int]]:
        """Yield task and number of each round that has enough reports to be released.

        Parameters
        ----------
        wanted : dict
            Reports that have to come where the task's number did not suffice, by task and round.
        """
        with self._database.reading() as connection:
            for task, number, needed in connection.execute(_OPEN).all():
                first = number - self._max_staleness(connection, task)
                buffered = connection.execute(_BUFFERED, {"task": task, "first": first})
                if int(buffered.scalar_one()) >= wanted.get((task, number), needed):
                    yield task, number

    @staticmethod
    def _max_staleness(connection: Connection, task: str) -> int:
        return int(connection.execute(_SLOTS, {"task": task}).one().max_staleness)

    def pending(self, facts: RoundFacts, *, page: int) -> list[SealedEntry]:
        """Return reports that a release takes and that were not handed over yet, by their leases."""
        where = {"task": facts.task, "first": _first(facts), "page": page}
        with self._database.reading() as connection:
            rows = connection.execute(_PENDING, where).all()
        return [
            SealedEntry(
                lease=row.lease, sealed=bytes(row.sealed), origin=(row.number, row.model_version)
            )
            for row in rows
        ]

    def held(self, facts: RoundFacts) -> int:
        """Return how many reports a release would take, handed over or not."""
        with self._database.reading() as connection:
            where = {"task": facts.task, "first": _first(facts)}
            return int(connection.execute(_HELD, where).scalar_one())

    def retire(
        self, connection: Connection, facts: RoundFacts, *, everything: bool
    ) -> list[Retired]:
        """Forget sealed reports that were released, and return the rounds that are cut off now.

        Parameters
        ----------
        everything : bool
            Cuts off this round and all before, for a task that does not go on.
        """
        connection.execute(_FORGET_RELEASED, {"task": facts.task})
        first = facts.number + 1 - (0 if everything else _staleness(facts))
        rows = connection.execute(_CUT_OFF, {"task": facts.task, "first": first}).all()
        return [Retired(id=bytes(row.id), number=row.number) for row in rows]

    @staticmethod
    def open_next(
        connection: Connection, facts: RoundFacts, *, model_version: int, now: float
    ) -> None:
        """Open the round after one that has just ended, for as long as that one was to last."""
        seconds = float(connection.execute(_SPAN, {"id": facts.id}).scalar_one())
        connection.execute(
            _INSERT,
            {
                "task": facts.task,
                "number": facts.number + 1,
                "id": secrets.token_bytes(ROUND_ID_BYTES),
                "state": "open",
                "model_version": model_version,
                "opened_at": now,
                "closes_at": now + seconds,
                "lease_key": secrets.token_bytes(LEASE_KEY_BYTES),
            },
        )


def _staleness(facts: RoundFacts) -> int:
    if facts.max_staleness is None:
        raise ValueError(f"rounds of {facts.task!r} are not asynchronous")
    return facts.max_staleness


def _first(facts: RoundFacts) -> int:
    """Return the first round whose reports this one's release takes."""
    return facts.number - _staleness(facts)
