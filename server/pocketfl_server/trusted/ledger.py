"""The trusted tier's memory: one SQLite file whose every transaction is on disk before it is believed.

It holds private keys, the plans they are bound to, the accounts that plans share, sealed reports until
their round is released or abandoned, and every release with what it was charged. A release, its charge
and the deletion of its reports are one transaction, so a crash leaves either all of it or nothing.

The file is readable by its owner only, and SQLite's exclusive locking keeps a second process out: two
tiers on one ledger could both release a round.
"""

from __future__ import annotations

import os
import sqlite3
import stat
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from types import TracebackType
from typing import Final, Literal, Self

import numpy as np

from pocketfl.decoding import encode_json
from pocketfl.errors import PocketFLError
from pocketfl.plan.aggregation import BudgetSpec
from pocketfl.protocol import LedgerHead
from pocketfl_server.trusted import token_keys
from pocketfl_server.trusted.messages import TokenKeyDigest
from pocketfl_server.trusted.releases import IntegerVector

_APPLICATION_ID: Final = 0x504B544C
"""Marks the file as a ledger in SQLite's header ("PKTL")."""
_PAGE_BYTES: Final = 16 * 2**10
_MAPPED_BYTES: Final = 2**33
"""Part of the file that is read without copying it first."""
_LEASES_AT_ONCE: Final = 4096
_SCHEMA_VERSION: Final = 6

# One row for each release in the order of release; what a rolled-back ledger cannot bring forth again.
_CHAIN_TABLE: Final = """
    CREATE TABLE chain(
        sequence INTEGER PRIMARY KEY,
        digest TEXT NOT NULL,
        task TEXT NOT NULL,
        round INTEGER NOT NULL
    )
    """

# Accounts that several tasks share.
_BUDGET_TABLES: Final = (
    """
    CREATE TABLE budgets(
        name TEXT PRIMARY KEY,
        epsilon REAL NOT NULL,
        delta REAL NOT NULL,
        unit TEXT NOT NULL
    ) WITHOUT ROWID
    """,
    """
    CREATE TABLE budget_tasks(
        task TEXT PRIMARY KEY REFERENCES tasks(task),
        budget TEXT NOT NULL REFERENCES budgets(name)
    ) WITHOUT ROWID
    """,
)

# Noise that later releases of a task take back; as secret as the private key.
_TREE_TABLE: Final = """
    CREATE TABLE tree_noise(
        task TEXT NOT NULL REFERENCES tasks(task),
        node INTEGER NOT NULL,
        noise BLOB NOT NULL,
        PRIMARY KEY(task, node)
    ) WITHOUT ROWID
    """

# Leases that were in a release of asynchronous rounds, until none may take them any more.
_COUNTED_TABLE: Final = """
    CREATE TABLE counted(
        task TEXT NOT NULL REFERENCES tasks(task),
        lease TEXT NOT NULL,
        sha256 BLOB NOT NULL,
        origin_round INTEGER NOT NULL,
        PRIMARY KEY(task, lease)
    ) WITHOUT ROWID
    """
_ORIGIN_COLUMNS: Final = ("origin_round", "origin_version")

# A sealed report is NULL where it was refused on arrival: its hash still guards the lease.
_SCHEMA: Final = (
    """
    CREATE TABLE tasks(
        task TEXT PRIMARY KEY,
        plan BLOB NOT NULL,
        manifest_sha256 TEXT NOT NULL UNIQUE,
        private_key BLOB NOT NULL,
        public_key BLOB NOT NULL
    )
    """,
    """
    CREATE TABLE rounds(
        task TEXT NOT NULL REFERENCES tasks(task),
        round INTEGER NOT NULL,
        model_version INTEGER NOT NULL,
        state TEXT NOT NULL CHECK (state IN ('open', 'released', 'abandoned')),
        PRIMARY KEY(task, round)
    ) WITHOUT ROWID
    """,
    """
    CREATE TABLE reports(
        id INTEGER PRIMARY KEY,
        task TEXT NOT NULL,
        round INTEGER NOT NULL,
        lease TEXT NOT NULL,
        sha256 BLOB NOT NULL,
        sealed BLOB,
        origin_round INTEGER,
        origin_version INTEGER,
        UNIQUE(task, round, lease),
        FOREIGN KEY(task, round) REFERENCES rounds(task, round)
    )
    """,
    """
    CREATE TABLE releases(
        task TEXT NOT NULL,
        round INTEGER NOT NULL,
        sampling_probability REAL NOT NULL,
        noise_multiplier REAL NOT NULL,
        release BLOB NOT NULL,
        PRIMARY KEY(task, round),
        FOREIGN KEY(task, round) REFERENCES rounds(task, round)
    )
    """,
    _CHAIN_TABLE,
    *_BUDGET_TABLES,
    _TREE_TABLE,
    _COUNTED_TABLE,
    token_keys.TABLE,
)

_NO_RELEASE: Final = sha256(b"pocketfl ledger 1").hexdigest()

Origin = tuple[int, int]
"""Round and model version that a device checked in to."""

RoundState = Literal["open", "released", "abandoned"]


class LedgerError(PocketFLError):
    """The ledger cannot be used: in use elsewhere, damaged, foreign, readable by others, disk full."""


class LeaseTakenError(PocketFLError):
    """Other bytes are on record for a lease; nothing of the batch was kept."""


class BudgetConflictError(PocketFLError):
    """An account is on record with other bounds; nothing was recorded."""


class RoundFullError(PocketFLError):
    """The batch would bring a round above its capacity; nothing of it was kept."""


@dataclass(frozen=True, kw_only=True, repr=False)
class TaskRecord:
    """A task with its plan and its key pair (raw X25519); never printed."""

    task: str
    plan: bytes
    private_key: bytes
    public_key: bytes


@dataclass(frozen=True, kw_only=True)
class RoundRecord:
    """Where a round stands."""

    model_version: int
    state: RoundState


@dataclass(frozen=True, kw_only=True)
class Charge:
    """What one release costs: the event that the accountant prices."""

    sampling_probability: float
    noise_multiplier: float


class Ledger:
    """The file, opened by exactly one process; safe to share between its threads.

    Parameters
    ----------
    path : str or Path
        Made with rights for its owner only when it does not exist.

    Raises
    ------
    LedgerError
        If another process has it open, others may read it, or it is not a sound ledger.
    """

    def __init__(self, path: str | Path) -> None:
        self.path: Final = Path(path)
        self._lock = threading.RLock()
        _ensure_private(self.path)
        try:
            self._connection = sqlite3.connect(
                self.path, timeout=1.0, isolation_level=None, check_same_thread=False
            )
        except sqlite3.Error as error:
            raise LedgerError(f"cannot open the ledger {self.path}: {error}") from None
        try:
            self._prepare()
        except sqlite3.Error as error:
            self._connection.close()
            raise self._explain(error) from None
        except BaseException:
            self._connection.close()
            raise

    def _prepare(self) -> None:
        execute = self._connection.execute
        # Reports are long, and fewer pages are read faster; a file that exists keeps its own size.
        execute(f"PRAGMA page_size={_PAGE_BYTES}")
        execute(f"PRAGMA mmap_size={_MAPPED_BYTES}")
        # Exclusive mode before anything is read: the lock is then held until the process ends.
        execute("PRAGMA locking_mode=EXCLUSIVE")
        execute("BEGIN EXCLUSIVE")
        execute("COMMIT")
        execute("PRAGMA journal_mode=WAL")
        execute("PRAGMA synchronous=FULL")
        execute("PRAGMA foreign_keys=ON")
        # Deleted reports are overwritten: the key that opens them is in the same file.
        execute("PRAGMA secure_delete=ON")
        application = execute("PRAGMA application_id").fetchone()[0]
        version = execute("PRAGMA user_version").fetchone()[0]
        tables = execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]
        if (application, version, tables) == (0, 0, 0):
            with self._transaction():
                for statement in _SCHEMA:
                    execute(statement)
                execute(f"PRAGMA application_id={_APPLICATION_ID}")
                execute(f"PRAGMA user_version={_SCHEMA_VERSION}")
        elif application != _APPLICATION_ID:
            raise LedgerError(f"{self.path} is a database of something else, not a ledger")
        elif not 1 <= version <= _SCHEMA_VERSION:
            raise LedgerError(
                f"{self.path} has ledger version {version}; this pocketfl reads {_SCHEMA_VERSION}"
            )
        else:
            verdict = execute("PRAGMA quick_check(1)").fetchone()[0]
            if verdict != "ok":
                raise LedgerError(f"{self.path} is damaged: {verdict}")
            if version < _SCHEMA_VERSION:
                self._upgrade(version)
            # A crash may have come between a release and this.
            self._forget()

    def _upgrade(self, version: int) -> None:
        """Bring an older ledger to this version: chain its releases, make the tables that it lacks."""
        with self._transaction() as connection:
            if version == 1:
                connection.execute(_CHAIN_TABLE)
                releases = connection.execute(
                    "SELECT task, round, sampling_probability, noise_multiplier, release "
                    "FROM releases ORDER BY rowid"
                ).fetchall()
                for task, number, probability, multiplier, release in releases:
                    charge = Charge(sampling_probability=probability, noise_multiplier=multiplier)
                    _extend_chain(connection, task, number, release=release, charge=charge)
            for statement in _BUDGET_TABLES if version < 3 else ():
                connection.execute(statement)
            if version < 4:
                connection.execute(_TREE_TABLE)
            if version < 5:
                connection.execute(_COUNTED_TABLE)
                for column in _ORIGIN_COLUMNS:
                    connection.execute(f"ALTER TABLE reports ADD COLUMN {column} INTEGER")
            connection.execute(token_keys.TABLE)
            connection.execute(f"PRAGMA user_version={_SCHEMA_VERSION}")

    def _explain(self, error: sqlite3.Error) -> LedgerError:
        if isinstance(error, sqlite3.OperationalError) and "locked" in str(error):
            return LedgerError(
                f"the ledger {self.path} is in use by another process; stop that one first"
            )
        return LedgerError(f"the ledger {self.path} cannot be used: {error}")

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            try:
                self._connection.execute("BEGIN IMMEDIATE")
                yield self._connection
                self._connection.execute("COMMIT")
            except BaseException as error:
                # A full disk may have ended the transaction already.
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                if isinstance(error, sqlite3.OperationalError):
                    raise LedgerError(
                        f"the ledger {self.path} cannot be written: {error}; nothing was changed"
                    ) from None
                raise

    def close(self) -> None:
        """Close the file and let another process have it."""
        with self._lock:
            self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def add_task(
        self, record: TaskRecord, *, manifest_sha256: str, budget: BudgetSpec | None = None
    ) -> None:
        """Record a new task with its key pair, and the account that it shares, if any.

        Raises
        ------
        BudgetConflictError
            If that account is on record with another epsilon, delta or unit; nothing is recorded.
        """
        with self._transaction() as connection:
            connection.execute(
                "INSERT INTO tasks VALUES (?, ?, ?, ?, ?)",
                (
                    record.task,
                    record.plan,
                    manifest_sha256,
                    record.private_key,
                    record.public_key,
                ),
            )
            if budget is not None:
                self._join_budget(connection, record.task, budget)

    @staticmethod
    def _join_budget(connection: sqlite3.Connection, task: str, budget: BudgetSpec) -> None:
        stated = (budget.name, budget.epsilon, budget.delta, budget.unit)
        connection.execute("INSERT INTO budgets VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING", stated)
        kept = connection.execute(
            "SELECT name, epsilon, delta, unit FROM budgets WHERE name = ?", (budget.name,)
        ).fetchone()
        if tuple(kept) != stated:
            raise BudgetConflictError(
                f"the budget {budget.name!r} is on record with epsilon {kept[1]:g} at delta "
                f"{kept[2]:g} for one {kept[3]}, and this plan says epsilon {budget.epsilon:g} at "
                f"delta {budget.delta:g} for one {budget.unit}"
            )
        connection.execute("INSERT INTO budget_tasks VALUES (?, ?)", (task, budget.name))

    def tasks_of_budget(self, budget: str) -> tuple[str, ...]:
        """Return the tasks that share an account."""
        with self._lock:
            rows = self._connection.execute(
                "SELECT task FROM budget_tasks WHERE budget = ? ORDER BY task", (budget,)
            ).fetchall()
        return tuple(row[0] for row in rows)

    def task(self, task: str) -> TaskRecord | None:
        """Return a task, or ``None`` if there is none of that name."""
        with self._lock:
            row = self._connection.execute(
                "SELECT plan, private_key, public_key FROM tasks WHERE task = ?", (task,)
            ).fetchone()
        if row is None:
            return None
        return TaskRecord(task=task, plan=row[0], private_key=row[1], public_key=row[2])

    def task_of_manifest(self, manifest_sha256: str) -> str | None:
        """Return the task that a manifest is bound to, or ``None``."""
        with self._lock:
            row = self._connection.execute(
                "SELECT task FROM tasks WHERE manifest_sha256 = ?", (manifest_sha256,)
            ).fetchone()
        return None if row is None else str(row[0])

    def round(self, task: str, number: int) -> RoundRecord | None:
        """Return a round, or ``None`` if nothing was ever submitted for it."""
        with self._lock:
            row = self._connection.execute(
                "SELECT model_version, state FROM rounds WHERE task = ? AND round = ?",
                (task, number),
            ).fetchone()
        return None if row is None else RoundRecord(model_version=row[0], state=row[1])

    def releases(self, task: str) -> tuple[int, int]:
        """Return how many releases a task had, and the round of the last one (0 for none)."""
        with self._lock:
            row = self._connection.execute(
                "SELECT count(*), coalesce(max(round), 0) FROM releases WHERE task = ?", (task,)
            ).fetchone()
        return int(row[0]), int(row[1])

    def release(self, task: str, number: int) -> bytes | None:
        """Return the bytes of a round's release, or ``None`` before it is released."""
        with self._lock:
            row = self._connection.execute(
                "SELECT release FROM releases WHERE task = ? AND round = ?", (task, number)
            ).fetchone()
        return None if row is None else bytes(row[0])

    def tasks(self) -> tuple[str, ...]:
        """Return the names of all tasks."""
        with self._lock:
            rows = self._connection.execute("SELECT task FROM tasks ORDER BY task").fetchall()
        return tuple(row[0] for row in rows)

    def open_rounds(self) -> list[tuple[str, int, int]]:
        """Return task, number and count of reports of each round that is not over."""
        with self._lock:
            rows = self._connection.execute(
                "SELECT task, round, (SELECT count(*) FROM reports WHERE reports.task = rounds.task "
                "AND reports.round = rounds.round) FROM rounds WHERE state = 'open' ORDER BY 1, 2"
            ).fetchall()
        return [(row[0], int(row[1]), int(row[2])) for row in rows]

    def head(self) -> LedgerHead:
        """Return how far the ledger has come, over all tasks."""
        with self._lock:
            return _head(self._connection)

    def token_key_heads(self) -> dict[str, LedgerHead]:
        """Return how far each task's directory of token keys has come."""
        with self._lock:
            rows = self._connection.execute("SELECT task FROM tasks ORDER BY task").fetchall()
            return {row[0]: token_keys.newest(self._connection, row[0])[0] for row in rows}

    def add_token_keys(
        self, task: str, keys: Sequence[TokenKeyDigest]
    ) -> tuple[LedgerHead, LedgerHead]:
        """Enter keys into a task's directory; see :func:`.token_keys.enter`."""
        with self._transaction() as connection:
            return token_keys.enter(connection, task, keys)

    def report_count(self, task: str, number: int) -> int:
        """Return how many leases of a round have a report."""
        with self._lock:
            row = self._connection.execute(
                "SELECT count(*) FROM reports WHERE task = ? AND round = ?", (task, number)
            ).fetchone()
        return int(row[0])

    def origins(self, task: str, number: int) -> list[tuple[Origin | None, int]]:
        """Return where a round's reports come from, and how many each; None is the round itself."""
        with self._lock:
            rows = self._connection.execute(
                "SELECT origin_round, origin_version, count(*) FROM reports "
                "WHERE task = ? AND round = ? GROUP BY 1, 2 ORDER BY 1, 2",
                (task, number),
            ).fetchall()
        return [(None if row[0] is None else (row[0], row[1]), int(row[2])) for row in rows]

    def pages(
        self, task: str, number: int, *, at_once: int, origin: Origin | None = None
    ) -> Iterator[list[tuple[str, bytes | None]]]:
        """Yield a round's sealed reports under their leases, None where one was refused on arrival.

        In the order of the leases, which are random, and not of arrival: an index has all of them
        ready. Each report is read for itself, because that is several times as fast: its memory is used
        again for the next.

        Parameters
        ----------
        at_once : int
            Reports of a page.
        origin : tuple of (int, int), optional
            Reports from there alone, where rounds are asynchronous.
        """
        after = ""
        while leases := self._leases(task, number, after=after, origin=origin):
            after, _ = leases[-1]
            for start in range(0, len(leases), at_once):
                part = leases[start : start + at_once]
                yield [(lease, self._report(report)) for lease, report in part]

    def _leases(
        self, task: str, number: int, *, after: str, origin: Origin | None
    ) -> list[tuple[str, int]]:
        with self._lock:
            return self._connection.execute(
                "SELECT lease, id FROM reports WHERE task = ? AND round = ? AND lease > ? "
                "AND origin_round IS ? AND origin_version IS ? ORDER BY lease LIMIT ?",
                (task, number, after, *(origin or (None, None)), _LEASES_AT_ONCE),
            ).fetchall()

    def _report(self, report: int) -> bytes | None:
        with self._lock:
            row = self._connection.execute(
                "SELECT sealed FROM reports WHERE id = ?", (report,)
            ).fetchone()
        if row is None:
            raise LedgerError(
                f"the ledger {self.path} has lost a report while its round was summed"
            )
        return None if row[0] is None else bytes(row[0])

    def add_reports(
        self,
        task: str,
        number: int,
        *,
        model_version: int,
        reports: Sequence[tuple[str, bytes, bytes | None, Origin | None]],
        capacity: int,
    ) -> None:
        """Store reports, opening the round if this is its first.

        Parameters
        ----------
        reports : sequence of (str, bytes, bytes or None, Origin or None)
            Lease, SHA-256 of what arrived, the sealed bytes (``None`` if refused on arrival), and where
            it comes from. One that was in an earlier release is not stored again.
        capacity : int
            Most leases that the round may have.

        Raises
        ------
        RoundFullError
            If there are more; nothing of the call is kept.
        LeaseTakenError
            If another hash is on record for a lease; nothing of the call is kept.
        """
        with self._transaction() as connection:
            connection.execute(
                "INSERT INTO rounds VALUES (?, ?, ?, 'open') ON CONFLICT DO NOTHING",
                (task, number, model_version),
            )
            for lease, digest, sealed, origin in reports:
                row = None
                if origin is not None:
                    row = connection.execute(
                        "SELECT sha256 FROM counted WHERE task = ? AND lease = ?", (task, lease)
                    ).fetchone()
                if row is None:
                    added = connection.execute(
                        "INSERT INTO reports"
                        "(task, round, lease, sha256, sealed, origin_round, origin_version) "
                        "VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT(task, round, lease) DO NOTHING",
                        (task, number, lease, digest, sealed, *(origin or (None, None))),
                    )
                    if added.rowcount:
                        continue
                    row = connection.execute(
                        "SELECT sha256 FROM reports WHERE task = ? AND round = ? AND lease = ?",
                        (task, number, lease),
                    ).fetchone()
                if row[0] != digest:
                    raise LeaseTakenError(
                        f"another report is on record for the lease {lease[:8]}..."
                    )
            (held,) = connection.execute(
                "SELECT count(*) FROM reports WHERE task = ? AND round = ?", (task, number)
            ).fetchone()
            if held > capacity:
                raise RoundFullError(f"{held} reports, {capacity} at most")

    def tree_nodes(self, task: str) -> dict[int, IntegerVector]:
        """Return the nodes of a task's tree that make up what was released last."""
        with self._lock:
            rows = self._connection.execute(
                "SELECT node, noise FROM tree_noise WHERE task = ?", (task,)
            ).fetchall()
        return {
            int(node): np.frombuffer(noise, dtype="<i8").astype(np.int64) for node, noise in rows
        }

    def commit_release(
        self,
        task: str,
        number: int,
        *,
        release: bytes,
        charge: Charge,
        tree_nodes: Mapping[int, IntegerVector] | None = None,
        max_staleness: int | None = None,
    ) -> None:
        """Store a release with its charge and its tree, and delete its reports: all or nothing.

        Where rounds are asynchronous, the leases stay on record as long as a later release might take
        them, and what was submitted to other rounds under them is deleted.
        """
        with self._transaction() as connection:
            connection.execute(
                "INSERT INTO releases VALUES (?, ?, ?, ?, ?)",
                (task, number, charge.sampling_probability, charge.noise_multiplier, release),
            )
            _extend_chain(connection, task, number, release=release, charge=charge)
            connection.execute("DELETE FROM tree_noise WHERE task = ?", (task,))
            connection.executemany(
                "INSERT INTO tree_noise VALUES (?, ?, ?)",
                [(task, node, v.astype("<i8").tobytes()) for node, v in (tree_nodes or {}).items()],
            )
            if max_staleness is not None:
                self._count_leases(connection, task, number, max_staleness=max_staleness)
            self._close_round(connection, task, number, "released")
        self._forget()

    @staticmethod
    def _count_leases(
        connection: sqlite3.Connection, task: str, number: int, *, max_staleness: int
    ) -> None:
        connection.execute(
            "INSERT INTO counted SELECT task, lease, sha256, origin_round FROM reports "
            "WHERE task = ? AND round = ?",
            (task, number),
        )
        connection.execute(
            "DELETE FROM reports WHERE task = ? AND round != ? "
            "AND lease IN (SELECT lease FROM counted WHERE task = ?)",
            (task, number, task),
        )
        # The next release refuses these by their round.
        connection.execute(
            "DELETE FROM counted WHERE task = ? AND origin_round < ?",
            (task, number + 1 - max_staleness),
        )

    def abandon(self, task: str, number: int) -> None:
        """Delete a round's reports and mark it, so that it can never be released."""
        with self._transaction() as connection:
            connection.execute(
                "INSERT INTO rounds VALUES (?, ?, 0, 'abandoned') ON CONFLICT DO NOTHING",
                (task, number),
            )
            self._close_round(connection, task, number, "abandoned")
        self._forget()

    @staticmethod
    def _close_round(
        connection: sqlite3.Connection, task: str, number: int, state: RoundState
    ) -> None:
        connection.execute(
            "UPDATE rounds SET state = ? WHERE task = ? AND round = ?", (state, task, number)
        )
        connection.execute("DELETE FROM reports WHERE task = ? AND round = ?", (task, number))

    def _forget(self) -> None:
        # The write-ahead log still has the deleted reports; folding it in and cutting it ends that.
        with self._lock:
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def _head(connection: sqlite3.Connection) -> LedgerHead:
    row = connection.execute(
        "SELECT sequence, digest FROM chain ORDER BY sequence DESC LIMIT 1"
    ).fetchone()
    if row is None:
        return LedgerHead(sequence=0, digest=_NO_RELEASE)
    return LedgerHead(sequence=row[0], digest=row[1])


def _extend_chain(
    connection: sqlite3.Connection, task: str, number: int, *, release: bytes, charge: Charge
) -> None:
    """Add a release to the chain: SHA-256 over the digest before and all that the release is."""
    before = _head(connection)
    link = sha256(bytes.fromhex(before.digest))
    link.update(encode_json({"task": task, "round": number, "charge": charge}))
    link.update(sha256(release).digest())
    connection.execute(
        "INSERT INTO chain VALUES (?, ?, ?, ?)",
        (before.sequence + 1, link.hexdigest(), task, number),
    )


def _ensure_private(path: Path) -> None:
    """Make the file with its owner's rights only; SQLite gives its log the rights of the file."""
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
    except FileExistsError:
        mode = stat.S_IMODE(path.stat().st_mode)
        if os.name == "posix" and mode & 0o077:
            raise LedgerError(
                f"the ledger {path} holds private keys, and its rights {mode:04o} let others at it; "
                "run chmod 600 on it"
            ) from None
    except OSError as error:
        raise LedgerError(f"cannot make the ledger {path}: {error.strerror}") from None
