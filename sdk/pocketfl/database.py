"""One SQLite file that holds everything a device keeps: examples, features, state, participations.

Opening is cheap, because a device opens its file once per round: the schema is made in one transaction
when the file is new, and a file that is ours is recognised by two numbers of its header.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from pocketfl.errors import StoreDamagedError, StoreError

SCHEMA_VERSION: Final = 2
# Zeros over what is deleted where a page is written anyway. Some builds of SQLite write them over every
# page, which doubles what a round writes; `Database.erasing` does where it is for a person's sake.
_CLEANING: Final = "PRAGMA secure_delete=FAST"
APPLICATION_ID: Final = 0x504B464C
"""Marks the file as ours in SQLite's header ("PKFL"), so that another app's file is never written."""

LOST_AT_STATE: Final = "store.quarantined_at"
"""State that holds, as text, the Unix time at which something was last found to be lost."""
LOST_STATE: Final = "store.lost_tables"
"""State that holds, one a line, the tables that were not whole then."""

# What SQLite says where the file is not what was written. All statements are ours: nothing else breaks
# a constraint, lacks a column or holds a text that is none. A message with damaged bytes in it cannot
# even be decoded.
_DAMAGE: Final = (
    sqlite3.DatabaseError,
    sqlite3.DataError,
    sqlite3.IntegrityError,
    UnicodeDecodeError,
)
_DAMAGE_MESSAGES: Final = ("no such column", "Could not decode to UTF-8")

# The example's payload is one column, because it is encrypted as a whole; what selection, quotas and
# expiry need stays outside it. An index on a rowid table ends in the rowid, so `examples_by_collection`
# alone answers "which ids". The totals of a collection are kept, not counted: a million rows are. No id
# is used twice, so that nothing old can be taken for something new.
COLLECTION_SCHEMA: Final = (
    """
    CREATE TABLE collections(
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        name TEXT NOT NULL UNIQUE,
        retention BLOB NOT NULL,
        revision INTEGER NOT NULL DEFAULT 0,
        wrapped_key BLOB,
        examples INTEGER NOT NULL DEFAULT 0,
        bytes INTEGER NOT NULL DEFAULT 0,
        damaged INTEGER NOT NULL DEFAULT 0
    )
    """,
    """
    CREATE TABLE collection_layouts(
        collection INTEGER NOT NULL,
        first_id INTEGER NOT NULL,
        schema BLOB NOT NULL,
        PRIMARY KEY(collection, first_id)
    ) WITHOUT ROWID
    """,
    "CREATE TABLE revoked_collections(collection INTEGER PRIMARY KEY)",
    """
    CREATE INDEX examples_by_expiry ON examples(collection, expires_at)
    WHERE expires_at IS NOT NULL
    """,
)
"""What came with version 2."""

_SCHEMA: Final = (
    """
    CREATE TABLE examples(
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        collection INTEGER NOT NULL REFERENCES collections(id),
        time REAL NOT NULL,
        created_at REAL NOT NULL,
        expires_at REAL,
        size INTEGER NOT NULL,
        payload BLOB NOT NULL
    )
    """,
    "CREATE INDEX examples_by_collection ON examples(collection)",
    *COLLECTION_SCHEMA,
    """
    CREATE TABLE server_features(
        feature_table TEXT NOT NULL,
        key TEXT NOT NULL,
        valid_from REAL NOT NULL,
        payload BLOB NOT NULL,
        PRIMARY KEY(feature_table, key, valid_from)
    ) WITHOUT ROWID
    """,
    """
    CREATE TABLE device_state(
        name TEXT PRIMARY KEY,
        value BLOB NOT NULL
    )
    """,
    """
    CREATE TABLE participations(
        task TEXT NOT NULL,
        round INTEGER NOT NULL,
        plan_sha256 TEXT NOT NULL,
        tossed_at REAL NOT NULL,
        state TEXT NOT NULL,
        PRIMARY KEY(task, round)
    ) WITHOUT ROWID
    """,
)


@dataclass(frozen=True, kw_only=True)
class Tables:
    """Tables that one module owns, and how every version of them came about.

    Attributes
    ----------
    name : str
        The module's own name, such as ``ledger``.
    steps : tuple of tuple of str
        SQL statements; step *i* brings version *i* to version *i + 1*. A step that was ever released
        never changes: what comes later is another step.
    """

    name: str
    steps: tuple[tuple[str, ...], ...]

    @cached_property
    def made(self) -> frozenset[str]:
        """Names of the tables that there are after the last step."""
        return frozenset(_try_out(statement for step in self.steps for statement in step))


@cache
def new_tables() -> Mapping[str, frozenset[str]]:
    """Return the columns of the tables that a new file has, by table."""
    return _try_out(_SCHEMA)


def _try_out(statements: Iterable[str]) -> dict[str, frozenset[str]]:
    """Return the tables that statements make where there are none, with their columns."""
    connection = sqlite3.connect(":memory:")
    try:
        for statement in statements:
            connection.execute(statement)
        names = connection.execute(
            "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"
        ).fetchall()
        return {
            name: frozenset(row[1] for row in connection.execute(f"PRAGMA table_info({name})"))
            for (name,) in names
        }
    finally:
        connection.close()


def quote(name: str) -> str:
    """Return a table's or a column's name as SQL has it, whatever it consists of."""
    return '"' + name.replace('"', '""') + '"'


def damage_mark(path: Path) -> Path:
    """Return the file whose presence says that a query met damage behind a sound header."""
    return path.with_name(path.name + "-damaged")


class Database:
    """A connection to the device's file, safe to share between threads.

    Parameters
    ----------
    path : str or Path
        The file; made when it does not exist, together with ``-wal`` and ``-shm`` files beside it.
    busy_timeout : float
        Seconds to wait for another process that is writing.
    durable : bool
        Whether to wait for the disk where a power cut could damage the file. Leave it on for anybody's
        data; a simulated fleet, which opens thousands of files and can be made anew, may turn it off.

    Raises
    ------
    StoreError
        If the file is damaged, belongs to something else, was made by a newer version, or cannot be
        opened. The file is left as it is.
    """

    def __init__(
        self, path: str | Path, *, busy_timeout: float = 5.0, durable: bool = True
    ) -> None:
        self.path: Final = Path(path)
        self._lock = threading.RLock()
        self._depth = 0
        self._ensured: dict[str, int] = {}
        # Tables that the transaction under way has made: they may yet be undone.
        self._made: set[str] = set()
        self._has_versions = False
        self._opened = False
        self._busy_timeout = busy_timeout
        self.version: int = SCHEMA_VERSION
        """Of the file: 1 until the example store has encrypted what an older version wrote."""
        self._synchronous = f"PRAGMA synchronous={'NORMAL' if durable else 'OFF'}"
        try:
            self._connection = sqlite3.connect(
                self.path, timeout=busy_timeout, isolation_level=None, check_same_thread=False
            )
        except sqlite3.Error as error:
            raise StoreError(f"cannot open {self.path}: {error}") from error
        try:
            self._prepare()
        except (sqlite3.Error, UnicodeDecodeError) as error:
            self._connection.close()
            raise self._failure(error) from error
        except BaseException:
            self._connection.close()
            raise
        self._opened = True

    def _prepare(self) -> None:
        if self._read_marks() == (APPLICATION_ID, SCHEMA_VERSION):
            self._configure()
            return
        # Another process may be making the file right now: all that we judge by is one moment's state.
        with self.snapshot():
            application, version = self._read_marks()
            empty = (application, version) == (0, 0) and not self._has_tables()
        if empty:
            self._create()
        elif application != APPLICATION_ID or version < 1:
            raise StoreError(
                f"{self.path} is a database of something else (application id {application:#x}, "
                f"user version {version}); give pocketfl a file of its own"
            )
        elif version > SCHEMA_VERSION:
            raise StoreError(
                f"{self.path} has schema {version}, this pocketfl reads up to {SCHEMA_VERSION}: "
                "it was written by a newer version; update the app"
            )
        else:
            self.version = version
        self._configure()

    def _configure(self) -> None:
        self._connection.execute(self._synchronous)
        self._connection.execute(_CLEANING)

    def _read_marks(self) -> tuple[int, int]:
        execute = self._connection.execute
        version = execute("PRAGMA user_version").fetchone()[0]
        return execute("PRAGMA application_id").fetchone()[0], version

    def _has_tables(self) -> bool:
        return (
            self._connection.execute("SELECT 1 FROM sqlite_schema LIMIT 1").fetchone() is not None
        )

    def _create(self) -> None:
        execute = self._connection.execute
        # There is nothing to lose yet, so the switch of the journal need not wait for the disk.
        execute("PRAGMA synchronous=OFF")
        self._switch_to_wal()
        execute(self._synchronous)
        with self.transaction():
            # Another process may have been quicker between our look and our lock.
            if self._has_tables():
                return
            for statement in _SCHEMA:
                execute(statement)
            execute(f"PRAGMA application_id={APPLICATION_ID}")
            execute(f"PRAGMA user_version={SCHEMA_VERSION}")

    def _switch_to_wal(self) -> None:
        # SQLite does not wait for this lock by itself, however long the timeout.
        patience = time.monotonic() + self._busy_timeout
        while True:
            try:
                self._connection.execute("PRAGMA journal_mode=WAL")
                return
            except sqlite3.OperationalError:
                if time.monotonic() > patience:
                    raise
                time.sleep(0.005)

    def _failure(self, error: sqlite3.Error | UnicodeDecodeError) -> StoreError:
        if isinstance(error, sqlite3.OperationalError) and "locked" in str(error):
            return StoreError(f"{self.path} is locked by another process for too long; try again")
        if isinstance(error, sqlite3.ProgrammingError) and "closed" in str(error):
            return StoreError(f"{self.path} has been closed")
        if type(error) in _DAMAGE or str(error).startswith(_DAMAGE_MESSAGES):
            if self._opened:
                return self.report_damage(str(error))
            return StoreDamagedError(
                f"{self.path} is damaged or no database ({error}); nothing was changed: "
                "move the file away to start with an empty one"
            )
        return StoreError(f"{self.path}: {error}")

    def report_damage(self, reason: str) -> StoreDamagedError:
        """Return the error for a file that does not hold what was written, and mark the file.

        Whoever opens it next looks closely, as only few queries meet the damage.
        """
        damage_mark(self.path).touch()
        return StoreDamagedError(
            f"{self.path} is damaged ({reason}): close the store and open it again, which sets the "
            "file aside and saves what can be read"
        )

    def snapshot(self) -> AbstractContextManager[object]:
        """Hold the lock and one state of the file: several queries of the block agree.

        Another process may write meanwhile; the block does not see it, and keeps nobody waiting.

        Raises
        ------
        StoreError
            If SQLite refuses.
        """
        return _Block(self, "BEGIN")

    def transaction(self) -> AbstractContextManager[sqlite3.Connection]:
        """Hold the lock and one write transaction: all of the block happens, or nothing.

        A block inside a block of the same thread joins the outer transaction.

        Returns
        -------
        context manager of sqlite3.Connection
            For ``execute`` and ``executemany``; never commit or roll back on it.

        Raises
        ------
        StoreError
            If SQLite refuses; nothing of the block remains.
        """
        return _Block(self, "BEGIN IMMEDIATE")

    def _enter(self, begin: str) -> sqlite3.Connection:
        self._lock.acquire()
        try:
            if self._depth == 0:
                self._connection.execute(begin)
        except BaseException as error:
            self._lock.release()
            if isinstance(error, sqlite3.Error):
                raise self._failure(error) from error
            raise
        self._depth += 1
        return self._connection

    def _leave(self, error: BaseException | None) -> None:
        try:
            if self._depth == 1:
                self._end(commits=error is None)
        except sqlite3.Error as failure:
            raise self._failure(failure) from failure
        finally:
            self._depth -= 1
            if self._depth == 0:
                self._made.clear()
            self._lock.release()
        if isinstance(error, (sqlite3.Error, UnicodeDecodeError)):
            raise self._failure(error) from error

    def _end(self, *, commits: bool) -> None:
        try:
            if commits:
                self._connection.execute("COMMIT")
        finally:
            # SQLite may have rolled back by itself, for one on a full disk.
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")

    def ensure(self, tables: Tables) -> None:
        """Make a module's tables, or bring older ones to the present version: all of it, or nothing.

        Where damage has taken one of them along, all are made afresh, and :meth:`record_loss` says so.

        Raises
        ------
        StoreError
            If they were written by a newer version of the module.
        """
        newest = len(tables.steps)
        if self._ensured.get(tables.name) == newest:
            return
        if self._version_of(tables) == newest and self._has_all_of(tables):
            if tables.name not in self._made:
                self._ensured[tables.name] = newest
            return
        with self.transaction() as connection:
            connection.execute(
                "CREATE TABLE IF NOT EXISTS table_versions(name TEXT PRIMARY KEY, version INTEGER)"
            )
            # Another process may have been quicker between our look and our lock.
            version = self._version_of(tables)
            if version > newest:
                raise StoreError(
                    f"{self.path} has version {version} of the {tables.name} tables, this pocketfl "
                    f"reads up to {newest}: it was written by a newer version; update the app"
                )
            if version == newest and not self._has_all_of(tables):
                for name in sorted(tables.made):
                    connection.execute(f"DROP TABLE IF EXISTS {quote(name)}")
                self.record_loss(tables.made)
                version = 0
            self._made.add(tables.name)
            for step in tables.steps[version:]:
                for statement in step:
                    connection.execute(statement)
            connection.execute(
                "INSERT INTO table_versions(name, version) VALUES(?, ?) "
                "ON CONFLICT(name) DO UPDATE SET version = excluded.version",
                (tables.name, newest),
            )

    def record_loss(self, tables: Iterable[str]) -> None:
        """Remember that what these tables held is not all there, now and of earlier losses.

        A device that may have forgotten what it took part in holds back for a while.
        """
        with self.transaction():
            lost = self.lost_tables() | set(tables)
            self.write_state(LOST_AT_STATE, repr(time.time()).encode())
            self.write_state(LOST_STATE, "\n".join(sorted(lost)).encode())

    def lost_tables(self) -> frozenset[str]:
        """Return the tables of :meth:`record_loss`; empty if nothing was lost."""
        kept = self.read_state(LOST_STATE) or b""
        return frozenset(kept.decode("utf-8", "replace").split("\n")) - {""}

    def _has_all_of(self, tables: Tables) -> bool:
        marks = ",".join("?" * len(tables.made))
        rows = self.query(
            f"SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND name IN ({marks})",  # noqa: S608
            tuple(sorted(tables.made)),
        )
        return rows == [(len(tables.made),)]

    def _version_of(self, tables: Tables) -> int:
        if not self._has_versions:
            if not self.query("SELECT 1 FROM sqlite_schema WHERE name = 'table_versions'"):
                return 0
            # What this very transaction made may yet be undone.
            self._has_versions = self._depth == 0
        rows = self.query("SELECT version FROM table_versions WHERE name = ?", (tables.name,))
        return int(rows[0][0]) if rows else 0

    def query(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Run one reading statement and return all of its rows.

        Raises
        ------
        StoreError
            If SQLite refuses.
        """
        with self._lock:
            try:
                return self._connection.execute(sql, parameters).fetchall()
            except (sqlite3.Error, UnicodeDecodeError) as error:
                raise self._failure(error) from error

    def read_through(self, sql: str) -> None:
        """Run one reading statement to its end and keep nothing, to see that it can be read.

        Raises
        ------
        StoreError
            If SQLite refuses.
        """
        with self._lock:
            try:
                for _ in self._connection.execute(sql):
                    pass
            except (sqlite3.Error, UnicodeDecodeError) as error:
                raise self._failure(error) from error

    def stamp(self, version: int) -> None:
        """Say which version the file has now; part of the transaction that brings it there."""
        with self.transaction() as connection:
            connection.execute(f"PRAGMA user_version={version:d}")
        self.version = version

    @contextmanager
    def erasing(self) -> Iterator[None]:
        """Overwrite with zeros what the block deletes, and empty the write-ahead log after it.

        Raises
        ------
        StoreError
            If a transaction is under way, or another process reads or writes for too long: what was
            deleted stays deleted, but the log keeps traces of it until all have closed the file.
        """
        # The lock is not held all the time: others may work meanwhile, only that they erase as well.
        with self._lock:
            if self._depth:
                raise StoreError("erasing cannot be a part of a transaction: end that first")
            self.query("PRAGMA secure_delete=ON")
        try:
            yield
        finally:
            self.query(_CLEANING)
        if self.query("PRAGMA wal_checkpoint(TRUNCATE)")[0][0]:
            raise StoreError(
                f"{self.path} is in use by another process: what was deleted is gone from the file, "
                "but the log still has traces of it; close the store everywhere"
            )

    def move_log_into_file(self) -> None:
        """Have what was written so far outlive the loss of SQLite's log; waits for the disk."""
        self.query("PRAGMA wal_checkpoint(FULL)")

    def read_state(self, name: str) -> bytes | None:
        """Return the bytes kept under a name, or None."""
        rows = self.query("SELECT value FROM device_state WHERE name = ?", (name,))
        if not rows:
            return None
        value = rows[0][0]
        if not isinstance(value, bytes):
            raise StoreError(
                f"{self.path}: the state {name!r} is damaged; delete it to start afresh"
            )
        return value

    def write_state(self, name: str, value: bytes) -> None:
        """Keep bytes under a name, replacing what was there."""
        with self.transaction() as connection:
            connection.execute(
                "INSERT INTO device_state(name, value) VALUES(?, ?) "
                "ON CONFLICT(name) DO UPDATE SET value = excluded.value",
                (name, value),
            )

    def delete_state(self, name: str) -> None:
        """Forget what was kept under a name; no error when there is nothing."""
        with self.transaction() as connection:
            connection.execute("DELETE FROM device_state WHERE name = ?", (name,))

    def close(self) -> None:
        """Close the connection; further calls raise :class:`StoreError`."""
        with self._lock:
            self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


class _Block:
    """A transaction or snapshot, while it is entered; not a generator, as a round enters dozens."""

    __slots__ = ("_begin", "_database")

    def __init__(self, database: Database, begin: str) -> None:
        self._database = database
        self._begin = begin

    def __enter__(self) -> sqlite3.Connection:
        return self._database._enter(self._begin)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._database._leave(error)
