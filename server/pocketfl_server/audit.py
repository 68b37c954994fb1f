"""The log of what operators did and what was released, in the order in which it happened.

An action is on record before it begins and gets its outcome when it has ended; one without an outcome
was cut short. A release is on record in the transaction that stores what came of it, with its privacy
event. The log names operators and tasks, never devices or users.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from sqlalchemy import Connection, bindparam, select

from pocketfl.decoding import encode_json
from pocketfl_server.access import Principal
from pocketfl_server.database import Database, audit_log
from pocketfl_server.records import AuditEntry
from pocketfl_server.trusted.releases import Release

MAX_ENTRIES: Final = 1000
"""Entries that one answer has at most."""
RELEASE: Final = "release"
COORDINATOR: Final = "coordinator"
"""What the log calls the back end itself."""

_INSERT = audit_log.insert()
_END = (
    audit_log.update()
    .where(audit_log.c.sequence == bindparam("which"))
    .values(status=bindparam("outcome"))
)
_AFTER = (
    select(audit_log)
    .where(audit_log.c.sequence > bindparam("after"))
    .order_by(audit_log.c.sequence)
    .limit(bindparam("count"))
)


class AuditLog:
    """Writes and reads the log.

    Parameters
    ----------
    database : Database
        Where it is.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def begin(
        self,
        who: Principal,
        action: str,
        *,
        task: str | None,
        details: Mapping[str, str],
        now: float,
    ) -> int:
        """Put an action on record before it begins; returns its number."""
        row = _row(now, who.name, who.role, action, task=task, details=details)
        with self._database.writing() as connection:
            inserted = connection.execute(_INSERT, row).inserted_primary_key
        return int(inserted[0]) if inserted is not None else 0

    def end(self, sequence: int, *, status: int) -> None:
        """Put an action's outcome on record, a status of HTTP."""
        with self._database.writing() as connection:
            connection.execute(_END, {"which": sequence, "outcome": status})

    def entries(self, *, after: int = 0, limit: int = MAX_ENTRIES) -> tuple[AuditEntry, ...]:
        """Return entries in order, those above a number."""
        wanted = {"after": after, "count": max(1, min(limit, MAX_ENTRIES))}
        with self._database.reading() as connection:
            rows = connection.execute(_AFTER, wanted).mappings().all()
        return tuple(AuditEntry(**row) for row in rows)


def record_release(
    connection: Connection, release: Release, *, new_version: int | None, now: float
) -> None:
    """Put a release on record, in the transaction that stores what came of it."""
    summary = release.summary
    details = {
        "round": summary.round,
        "model_version": summary.model_version,
        "new_version": new_version,
        "plan_sha256": summary.plan_sha256,
        "reports": summary.reports,
        "noise_multiplier": summary.noise_multiplier,
        "epsilon": summary.epsilon,
        "epsilon_against_back_end": summary.epsilon_against_back_end,
        "delta": summary.delta,
        "privacy_event": summary.privacy_event,
    }
    row = _row(now, COORDINATOR, "", RELEASE, task=summary.task, details=details)
    connection.execute(_INSERT, {**row, "status": 200})


def _row(
    now: float, actor: str, role: str, action: str, *, task: str | None, details: Mapping[str, Any]
) -> dict[str, Any]:
    return {
        "at": now,
        "actor": actor,
        "role": role,
        "action": action[:128],
        "task": None if task is None else task[:128],
        "details": encode_json(dict(details)).decode(),
        "status": None,
    }
