"""Rollout documents: kept and handed out, each once and in order. Who may sign them is not up to us."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from sqlalchemy import Connection, bindparam, func, select

from pocketfl.errors import RolloutError
from pocketfl.plan.signing import parse_public_keys
from pocketfl.protocol import RolloutNotice
from pocketfl.rollout import Rollout, RolloutModel, load_rollout, read_signed
from pocketfl_server.blobs import Blobs
from pocketfl_server.database import Database, rollouts
from pocketfl_server.errors import Conflict, Malformed
from pocketfl_server.records import RolloutRecord
from pocketfl_server.registry import Registry
from pocketfl_server.tasks import Tasks

_OF_TASK: Final = (
    select(rollouts).where(rollouts.c.task == bindparam("task")).order_by(rollouts.c.sequence)
)
_LATEST: Final = select(func.max(rollouts.c.sequence)).where(rollouts.c.task == bindparam("task"))
_newest = (
    select(rollouts.c.task, func.max(rollouts.c.sequence).label("sequence"))
    .group_by(rollouts.c.task)
    .subquery()
)
_ANNOUNCED: Final = (
    select(rollouts.c.task, rollouts.c.sha256)
    .join(
        _newest,
        (rollouts.c.task == _newest.c.task) & (rollouts.c.sequence == _newest.c.sequence),
    )
    .order_by(rollouts.c.task)
)


class Rollouts:
    """Keeps the signed documents of every task.

    Parameters
    ----------
    database, blobs, tasks, registry
        Where things are kept.
    keys : iterable of str or bytes
        Ed25519 public keys whose documents are taken. Devices judge for themselves; this keeps an
        operator's mistake from reaching them.
    """

    def __init__(
        self,
        database: Database,
        blobs: Blobs,
        tasks: Tasks,
        registry: Registry,
        *,
        keys: Iterable[str | bytes],
    ) -> None:
        self._database = database
        self._blobs = blobs
        self._tasks = tasks
        self._registry = registry
        self._keys = parse_public_keys(keys)

    def publish(self, task: str, data: bytes, *, now: float) -> RolloutRecord:
        """Take in a document and announce it from now on; the same one again changes nothing.

        Raises
        ------
        NotFound
            If there is no such task, or a version that it names.
        Malformed
            If no known key signed it, or it is of another task.
        Conflict
            If it does not count up, or names a version by other parts than it has.
        """
        self._tasks.get(task)
        try:
            rollout = load_rollout(data, trusted_keys=self._keys)
        except RolloutError as error:
            raise Malformed(str(error), code="rollout_refused") from None
        if rollout.task != task:
            raise Malformed(
                f"the rollout is of task {rollout.task!r}, not of {task!r}", code="rollout_refused"
            )
        with self._database.writing() as connection:
            latest = connection.execute(_LATEST, {"task": task}).scalar() or 0
            digest = self._blobs.put(connection, "rollout", data)
            if rollout.sequence <= latest:
                if any(row["sha256"] == digest for row in self._rows(connection, task)):
                    return next(r for r in self.all(task) if r.sha256 == digest)
                raise Conflict(
                    f"the rollout has number {rollout.sequence}, and number {latest} is published: "
                    "devices would refuse it; make it anew",
                    code="rollout_replayed",
                )
            for model in _models(rollout):
                self._check_model(connection, task, model)
            connection.execute(
                rollouts.insert(),
                {
                    "task": task,
                    "sequence": rollout.sequence,
                    "sha256": digest,
                    "published_at": now,
                },
            )
        return _record(data, digest, published_at=now)

    def all(self, task: str) -> tuple[RolloutRecord, ...]:
        """Return every document of a task, oldest first."""
        self._tasks.get(task)
        with self._database.reading() as connection:
            rows = self._rows(connection, task)
        return tuple(
            _record(
                self._blobs.get("rollout", row["sha256"]),
                row["sha256"],
                published_at=row["published_at"],
            )
            for row in rows
        )

    def announced(self) -> tuple[RolloutNotice, ...] | None:
        """Return the latest document of each task as devices hear of it; None where there is none."""
        with self._database.reading() as connection:
            rows = connection.execute(_ANNOUNCED).all()
        return tuple(RolloutNotice(task=task, sha256=digest) for task, digest in rows) or None

    def _rows(self, connection: Connection, task: str) -> list[dict[str, Any]]:
        rows = connection.execute(_OF_TASK, {"task": task}).mappings()
        return [dict(row) for row in rows]

    def _check_model(self, connection: Connection, task: str, model: RolloutModel) -> None:
        trained_by = self._tasks.get(model.task or task)
        name = trained_by.name
        if trained_by.kind != "training":
            raise Conflict(f"task {name!r} trains no model", code="wrong_parts")
        known = self._registry.version(connection, name, model.version)
        parts = (known.parameters_sha256, trained_by.plan_sha256)
        if parts != (model.parameters_sha256, model.plan_sha256):
            raise Conflict(
                f"version {model.version} of {name!r} has other parts than the rollout names",
                code="wrong_parts",
            )


def _models(rollout: Rollout) -> list[RolloutModel]:
    named = [] if rollout.stable is None else [rollout.stable]
    return [*named, *(channel.model for channel in rollout.channels)]


def _record(data: bytes, digest: str, *, published_at: float) -> RolloutRecord:
    signer, rollout = read_signed(data)
    return RolloutRecord(
        sha256=digest, signed_by=signer, published_at=published_at, rollout=rollout
    )
