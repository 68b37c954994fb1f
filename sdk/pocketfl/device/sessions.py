"""What a device remembers of a round that it has a lease for, so that any crash leaves it knowing.

A session is written in the transaction that records the check-in and removed in the one that records
its end; its sealed report is written before the first attempt to upload it. So after a crash there is
either nothing, a session to go on with, or a report to send again.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Final

from pocketfl.database import Database, Tables
from pocketfl.decoding import decode_json
from pocketfl.errors import DecodeError, ReportError
from pocketfl.protocol import Assignment, RoundNotice, check_identifier
from pocketfl.reports import SealedReport, restore_report
from pocketfl.training.checkpoints import Checkpoint

TABLES: Final = Tables(
    name="sessions",
    steps=(
        (
            """
            CREATE TABLE sessions(
                task TEXT NOT NULL,
                round INTEGER NOT NULL,
                collection TEXT NOT NULL,
                record BLOB NOT NULL,
                tries INTEGER NOT NULL DEFAULT 0,
                report BLOB,
                report_sha256 TEXT,
                PRIMARY KEY(task, round)
            )
            """,
            """
            CREATE TABLE checkpoints(
                task TEXT NOT NULL,
                round INTEGER NOT NULL,
                collection TEXT NOT NULL,
                content BLOB NOT NULL,
                PRIMARY KEY(task, round)
            )
            """,
        ),
    ),
)
"""Both tables name the collection that a row was made from: revoking it deletes the row."""

ASK_SECONDS: Final = 7 * 86_400.0
"""How long after its lease a report that may have arrived is asked about, while nobody answers."""

_RECORD_LIMIT: Final = 64 * 2**10

# Every device writes one per round, and no field of a session is ever absent: faster
# than `encode_json`.
_JSON: Final = json.JSONEncoder(default=vars, separators=(",", ":"), allow_nan=False)


@dataclass(frozen=True, kw_only=True)
class Session:
    """A place in a round, and everything that decides what is trained for it.

    Attributes
    ----------
    notice : RoundNotice
        The round as it was announced.
    assignment : Assignment
        The lease, and the trusted tier's key.
    collection : str
        Whose examples are trained on.
    seed : int
        Decides which examples are taken and their order.
    examples_up_to : int
        Highest id of an example at the check-in: later ones are not for this round.
    began_at : float
        Unix time in seconds.
    upload_after : float
        Unix time in seconds before which the report is kept back; drawn at the check-in, so that it
        says nothing about what the device has.
    """

    notice: RoundNotice
    assignment: Assignment
    collection: str
    seed: int
    examples_up_to: int
    began_at: float
    upload_after: float = 0.0

    def __post_init__(self) -> None:
        check_identifier(self.notice.task, what="task")
        if self.seed < 0 or self.examples_up_to < 0:
            raise ValueError("seed and examples_up_to cannot be negative")

    @property
    def task(self) -> str:
        """Name of the task."""
        return self.notice.task

    @property
    def round(self) -> int:
        """Number of the round."""
        return self.notice.round


@dataclass(frozen=True, kw_only=True)
class PendingSession:
    """A session that an earlier run left behind.

    Attributes
    ----------
    task, round
        Which round.
    session : Session or None
        None when its record is damaged.
    tries : int
        Runs that began and neither came further nor ended in order: how often it may have taken the
        process down with it.
    has_report : bool
        Whether its report is made, and may have been sent.
    """

    task: str
    round: int
    session: Session | None
    tries: int
    has_report: bool


class Sessions:
    """The sessions in a device's database.

    Parameters
    ----------
    database : Database
        The device's file.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._exists = False

    def pending(self) -> tuple[PendingSession, ...]:
        """Return the sessions that have not ended, the oldest first."""
        # A device that never had a lease has no tables, and need not make any to find nothing.
        if not self._exists:
            if not self._database.query("SELECT 1 FROM sqlite_schema WHERE name = 'sessions'"):
                return ()
            self._database.ensure(TABLES)
            self._exists = True
        rows = self._database.query(
            "SELECT task, round, record, tries, report IS NOT NULL FROM sessions ORDER BY rowid"
        )
        return tuple(
            PendingSession(
                task=task,
                round=number,
                session=_decode(record, task=task, number=number),
                tries=tries,
                has_report=bool(has_report),
            )
            for task, number, record, tries, has_report in rows
        )

    def begin(self, session: Session) -> None:
        """Write a new session down."""
        with self._database.transaction() as connection:
            if not self._exists:
                self._database.ensure(TABLES)
            connection.execute(
                "INSERT OR REPLACE INTO sessions(task, round, collection, record) "
                "VALUES(?, ?, ?, ?)",
                (session.task, session.round, session.collection, _encode(session)),
            )

    def count_try(self, session: Session, *, change: int) -> None:
        """Add to the runs that began and did not end, or take one away that ended in order."""
        with self._database.transaction() as connection:
            connection.execute(
                "UPDATE sessions SET tries = max(0, tries + ?) WHERE task = ? AND round = ?",
                (change, session.task, session.round),
            )

    def keep_checkpoint(self, session: Session, checkpoint: Checkpoint) -> None:
        """Keep a checkpoint instead of the one before; does nothing once the session has ended."""
        with self._database.transaction() as connection:
            connection.execute(
                "INSERT OR REPLACE INTO checkpoints(task, round, collection, content) "
                "SELECT task, round, collection, ? FROM sessions WHERE task = ? AND round = ?",
                (checkpoint.to_bytes(), session.task, session.round),
            )
            connection.execute(
                "UPDATE sessions SET tries = 0 WHERE task = ? AND round = ?",
                (session.task, session.round),
            )

    def checkpoint(self, session: Session) -> Checkpoint | None:
        """Return the last checkpoint; a damaged one is as good as none."""
        rows = self._database.query(
            "SELECT content FROM checkpoints WHERE task = ? AND round = ?",
            (session.task, session.round),
        )
        try:
            return Checkpoint.from_bytes(bytes(rows[0][0])) if rows else None
        except (DecodeError, TypeError):
            return None

    def keep_report(self, session: Session, report: SealedReport) -> bool:
        """Keep a sealed report, which ends training; the first one stays.

        Returns
        -------
        bool
            False when the session has ended meanwhile, or has a report: this one must not be sent.
        """
        with self._database.transaction() as connection:
            changed = connection.execute(
                "UPDATE sessions SET report = ?, report_sha256 = ? "
                "WHERE task = ? AND round = ? AND report IS NULL",
                (report.data, report.sha256, session.task, session.round),
            ).rowcount
            self._drop_checkpoint(session.task, session.round)
            return changed == 1

    def report(self, session: Session) -> SealedReport:
        """Return the report that was kept.

        Raises
        ------
        ReportError
            If it is damaged, or there is none.
        """
        rows = self._database.query(
            "SELECT report, report_sha256 FROM sessions WHERE task = ? AND round = ?",
            (session.task, session.round),
        )
        data, digest = rows[0] if rows else (None, None)
        if not isinstance(data, bytes) or not isinstance(digest, str):
            raise ReportError("the kept report is damaged: it is not uploaded")
        return restore_report(data, lease=session.assignment.lease, sha256=digest)

    def is_open(self, session: Session) -> bool:
        """Return whether a session is still there: revoking its collection removes it."""
        return bool(
            self._database.query(
                "SELECT 1 FROM sessions WHERE task = ? AND round = ?", (session.task, session.round)
            )
        )

    def end(self, task: str, round: int) -> bool:  # noqa: A002 - the word of the field
        """Forget a session with all that was kept for it; say whether there was one."""
        with self._database.transaction() as connection:
            self._drop_checkpoint(task, round)
            return (
                connection.execute(
                    "DELETE FROM sessions WHERE task = ? AND round = ?", (task, round)
                ).rowcount
                == 1
            )

    def _drop_checkpoint(self, task: str, number: int) -> None:
        with self._database.transaction() as connection:
            connection.execute(
                "DELETE FROM checkpoints WHERE task = ? AND round = ?", (task, number)
            )


def _encode(session: Session) -> bytes:
    return _JSON.encode(session).encode()


def _decode(record: object, *, task: str, number: int) -> Session | None:
    try:
        if not isinstance(record, bytes):
            return None
        session = decode_json(Session, record, what="session", limit=_RECORD_LIMIT)
    except DecodeError:
        return None
    return session if (session.task, session.round) == (task, number) else None
