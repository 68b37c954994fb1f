"""The back end's tables, and the one place that opens them: SQLite by default, PostgreSQL by URL.

A change to a table here needs a revision in :mod:`.migrations`.

What joins whom. ``devices`` and ``check_ins`` know a device (by the hash of its token); ``reports`` and
everything after it know a lease. No column joins the two sides: a check-in has no lease, no time and no
row number (its table is kept in the order of random keys), and a lease is first written when its report
arrives, in another transaction, at a time of the device's choosing. Check-ins of a round are deleted
when the round ends. What remains is what the machine itself can see of the order in which requests
arrive, which no schema can hide.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Connection,
    Dialect,
    Engine,
    Float,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Insert,
    Integer,
    LargeBinary,
    MetaData,
    Select,
    String,
    Table,
    Text,
    create_engine,
    event,
    text,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import URL, make_url
from sqlalchemy.engine.interfaces import DBAPIConnection, DBAPICursor
from sqlalchemy.exc import ArgumentError, DBAPIError

from pocketfl_server.errors import DatabaseUnusableError
from pocketfl_server.migrations import prepare_schema

BUSY_TIMEOUT_SECONDS: Final = 20
LOCK_SPACE: Final = 720_198_031
"""Where this program's locks are among PostgreSQL's; arbitrary, but the same in every gateway."""
_ALIVE: Final = {"idle": 30, "interval": 10, "count": 3}
"""Seconds of silence, seconds between questions, and questions, until a connection counts as lost.

A gateway that is killed closes its connections; one whose machine is gone does not, and holds its locks
for about a minute instead of PostgreSQL's two hours.
"""

metadata = MetaData()

blobs = Table(
    "blobs",
    metadata,
    Column("kind", String(16), primary_key=True),  # plan, parameters, optimizer_state, rollout
    Column("sha256", String(64), primary_key=True),
    Column("data", LargeBinary, nullable=False),
)

tasks = Table(
    "tasks",
    metadata,
    Column("name", String(128), primary_key=True),
    Column("plan_sha256", String(64), nullable=False, unique=True),
    Column("privacy", String(16), nullable=False),
    Column("state", String(16), nullable=False),  # active, finished
    Column("finished_reason", String(64)),
    Column("optimizer", Text, nullable=False),
    Column("key_id", String(64), nullable=False),
    Column("public_key", String(64), nullable=False),
    Column("seed_task", String(128)),
    Column("seed_version", Integer),
    Column("created_at", Float, nullable=False),
    # Of one anonymous token; see credentials/epochs.py.
    Column("rounds_per_token", Integer, nullable=False, server_default="1"),
)

models = Table(
    "models",
    metadata,
    Column("task", ForeignKey("tasks.name"), primary_key=True),
    Column("version", Integer, primary_key=True, autoincrement=False),
    Column("parameters_sha256", String(64), nullable=False),
    Column("optimizer_state_sha256", String(64)),
    Column("privacy", String(16), nullable=False),
    Column("round", Integer),
    Column("reports", Integer),
    Column("noise_multiplier", Float),
    Column("epsilon", Float),
    Column("epsilon_against_back_end", Float),
    Column("delta", Float),
    Column("created_at", Float, nullable=False),
)

rounds = Table(
    "rounds",
    metadata,
    Column("task", ForeignKey("tasks.name"), primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("id", LargeBinary(8), nullable=False, unique=True),
    # open -> closing -> finished, or open/closing -> aborting -> aborted
    Column("state", String(16), nullable=False),
    Column("reason", String(64)),
    Column("model_version", Integer, nullable=False),
    Column("new_version", Integer),
    Column("opened_at", Float, nullable=False),
    Column("closes_at", Float, nullable=False),
    Column("ended_at", Float),
    Column("lease_key", LargeBinary(32), nullable=False),
    ForeignKeyConstraint(["task", "model_version"], ["models.task", "models.version"]),
)
_UNDER_WAY = rounds.c.state.in_(("open", "closing", "aborting"))
Index(
    "one_round_under_way",
    rounds.c.task,
    unique=True,
    sqlite_where=_UNDER_WAY,
    postgresql_where=_UNDER_WAY,
)

round_counts = Table(
    "round_counts",
    metadata,
    Column("task", String(128), primary_key=True),
    Column("round", Integer, primary_key=True, autoincrement=False),
    # turned_away, leases, uploaded, accepted, rejected
    Column("stage", String(16), primary_key=True),
    Column("reason", String(64), primary_key=True),
    Column("count", BigInteger, nullable=False),
    ForeignKeyConstraint(["task", "round"], ["rounds.task", "rounds.number"]),
)

devices = Table(
    "devices",
    metadata,
    Column("token_sha256", LargeBinary(32), primary_key=True),
    Column("user", String(256), nullable=False),
    Column("sdk", String(64), nullable=False),
    Column("enrolled_day", Integer, nullable=False),  # days since 1970; no finer on purpose
    sqlite_with_rowid=False,
)

check_ins = Table(
    "check_ins",
    metadata,
    Column("round_id", LargeBinary(8), primary_key=True),
    Column("device", LargeBinary(32), primary_key=True),
    sqlite_with_rowid=False,
)

reports = Table(
    "reports",
    metadata,
    Column("lease", String(128), primary_key=True),
    Column("round_id", LargeBinary(8), nullable=False, index=True),
    Column("sha256", LargeBinary(32), nullable=False),
    Column("sealed", LargeBinary),  # gone once the round has ended; the receipt stays for a while
    Column("submitted", Boolean, nullable=False),
)

user_features = Table(
    "user_features",
    metadata,
    Column("user", String(256), primary_key=True),
    Column("table", String(128), primary_key=True),
    Column("key", String(256), primary_key=True),
    Column("valid_from", Float(53), primary_key=True),
    Column("sequence", BigInteger, nullable=False),
    Column("payload", LargeBinary, nullable=False),
)
Index(
    "user_features_in_sequence",
    user_features.c.user,
    user_features.c.table,
    user_features.c.sequence,
    unique=True,
)

pauses = Table(
    "pauses",
    metadata,
    Column("task", String(128), primary_key=True),  # the empty name stands for every task
    Column("reason", String(200), nullable=False),
    Column("min_seconds", Float(53), nullable=False),
    Column("max_seconds", Float(53), nullable=False),
    Column("paused_at", Float(53), nullable=False),
)

# Released answers to queries; those of training are in `models`.
results = Table(
    "results",
    metadata,
    Column("task", String(128), primary_key=True),
    Column("round", Integer, primary_key=True, autoincrement=False),
    Column("reports", Integer, nullable=False),
    Column("released", LargeBinary, nullable=False),  # little-endian int64, in grid units
    Column("noise_multiplier", Float(53)),
    Column("epsilon", Float(53)),
    Column("epsilon_against_back_end", Float(53)),
    Column("delta", Float(53)),
    Column("budget", Text),
    Column("created_at", Float(53), nullable=False),
    ForeignKeyConstraint(["task", "round"], ["rounds.task", "rounds.number"]),
)

token_keys = Table(
    "token_keys",
    metadata,
    Column("task", String(128), primary_key=True),
    Column("first_round", Integer, primary_key=True, autoincrement=False),
    Column("last_round", Integer, nullable=False),
    Column("public_key", LargeBinary, nullable=False),
    Column("private_key", LargeBinary, nullable=False),
)

issued_tokens = Table(
    "issued_tokens",
    metadata,
    Column("task", String(128), primary_key=True),
    Column("first_round", Integer, primary_key=True, autoincrement=False),
    Column("device", LargeBinary(32), primary_key=True),
    Column("last_round", Integer, nullable=False),
    # Of the blinded request: it says nothing about the token.
    Column("request_sha256", LargeBinary(32), nullable=False),
)

# Anonymous tokens that gave a place, until their epoch is over; nobody knows whose they were.
spent_tokens = Table(
    "spent_tokens",
    metadata,
    Column("task", String(128), primary_key=True),
    Column("token", LargeBinary(32), primary_key=True),  # a hash of its nonce
    Column("last_round", Integer, nullable=False),
    sqlite_with_rowid=False,
)

# Where a plan lets the clip norm adapt: that of the rounds which start from a model version.
clip_norms = Table(
    "clip_norms",
    metadata,
    Column("task", String(128), primary_key=True),
    Column("version", Integer, primary_key=True, autoincrement=False),
    Column("clip_norm", Float(53), nullable=False),
    ForeignKeyConstraint(["task", "version"], ["models.task", "models.version"]),
)

asynchronous_tasks = Table(
    "asynchronous_tasks",
    metadata,
    Column("task", ForeignKey("tasks.name"), primary_key=True),
    Column("selection_size", Integer, nullable=False),
    Column("open_slots", Integer, nullable=False),
    Column("reports_per_release", Integer, nullable=False),
    Column("max_staleness", Integer, nullable=False),  # the plan's
    Column("filling", Boolean, nullable=False),  # whether free slots are given out
)

# How rounds of a task that was started follow one another.
schedules = Table(
    "schedules",
    metadata,
    Column("task", ForeignKey("tasks.name"), primary_key=True),
    Column("round_seconds", Float(53), nullable=False),
    Column("pause_seconds", Float(53), nullable=False),
    Column("rounds", Integer),  # how many; no number for as many as the budget allows
    Column("hours", String(16)),
    Column("opened", Integer, nullable=False),
    Column("started_at", Float(53), nullable=False),
    Column("ended_at", Float(53)),  # none while it runs
    Column("reason", String(64)),
)

# Signed documents that say what devices predict with; their bytes are in `blobs`.
rollouts = Table(
    "rollouts",
    metadata,
    Column("task", ForeignKey("tasks.name"), primary_key=True),
    Column("sequence", BigInteger, primary_key=True, autoincrement=False),
    Column("sha256", String(64), nullable=False),
    Column("published_at", Float(53), nullable=False),
)

# People and programs that may use the operator's routes, besides the one with the operator key.
access_tokens = Table(
    "access_tokens",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("role", String(16), nullable=False),  # viewer, operator, modeller, administrator
    Column("token_sha256", LargeBinary(32), nullable=False, unique=True),
    Column("created_at", Float(53), nullable=False),
)

# What operators did and what was released; rows are added and get their outcome, never deleted.
audit_log = Table(
    "audit_log",
    metadata,
    Column(
        "sequence",
        BigInteger().with_variant(Integer, "sqlite"),
        primary_key=True,
        autoincrement=True,
    ),
    Column("at", Float(53), nullable=False),
    Column("actor", String(64), nullable=False),
    Column("role", String(16), nullable=False),
    Column("action", String(128), nullable=False),
    Column("task", String(128)),
    Column("details", Text, nullable=False),  # JSON
    Column("status", Integer),  # of HTTP; none yet while the action runs, or if it never ended
)

# The schema belongs to the name: several back ends may share one PostgreSQL database.
_LOCK_KEY: Final = ":space, hashtext(current_schema() || ' ' || :name)"
_TRY_LOCK: Final = text(f"SELECT pg_try_advisory_lock({_LOCK_KEY})")
_RELEASE_LOCK: Final = text(f"SELECT pg_advisory_unlock({_LOCK_KEY})")


class Prepared:
    """A statement that is compiled once and then goes straight to the driver.

    For the few statements that run for every request of a device: the general way of executing costs
    several times as much as what the database does for them.

    Parameters
    ----------
    statement : executable
        With named parameters and no lists among them.
    dialect : Dialect
        Of the database.
    """

    def __init__(self, statement: Select[Any] | Insert, dialect: Dialect) -> None:
        compiled = statement.compile(dialect=dialect)
        self._text = str(compiled)
        self._positions = compiled.positiontup

    def one(self, connection: Connection, parameters: Mapping[str, object]) -> tuple[Any, ...]:
        """Return the one row that there is."""
        row = self._run(connection, parameters).fetchone()
        if row is None:
            raise LookupError("the statement found no row")
        return tuple(row)

    def count(self, connection: Connection, parameters: Mapping[str, object]) -> int:
        """Return how many rows were written."""
        return self._run(connection, parameters).rowcount

    def _run(self, connection: Connection, parameters: Mapping[str, object]) -> DBAPICursor:
        cursor = connection.connection.cursor()
        if self._positions is None:
            cursor.execute(self._text, parameters)
        else:
            cursor.execute(self._text, [parameters[name] for name in self._positions])
        return cursor


class Database:
    """Engines for one database: many readers, and transactions that are durable when they end.

    SQLite runs in WAL mode with one writing connection, for which reading ones never wait.

    Parameters
    ----------
    url : str
        ``sqlite:///path/to/file.db`` or ``postgresql+psycopg://user:password@host/database``.

    Attributes
    ----------
    in_process : bool
        Whether statements run inside this process (SQLite) instead of across a connection.

    Raises
    ------
    DatabaseUnusableError
        If it cannot be opened, is damaged, holds something else, or is of a later release.
    """

    def __init__(self, url: str) -> None:
        parsed = _parse(url)
        self.in_process = parsed.get_backend_name() == "sqlite"
        self._shown = parsed.render_as_string(hide_password=True)
        self._writer, self._reader = _engines(parsed)
        self._prompt_writer = self._writer.execution_options(durable=False)
        try:
            self._prepare_schema()
        except DBAPIError as error:
            self.close()
            raise DatabaseUnusableError(
                f"the database {self._shown} cannot be used: {error.orig}"
            ) from None
        except DatabaseUnusableError:
            self.close()
            raise

    @property
    def idle_in_process(self) -> bool:
        """Whether a transaction in this process would begin without waiting for another one's end."""
        # The pool of SQLite's writer holds one connection.
        return self.in_process and self._writer.pool.checkedout() == 0  # type: ignore[attr-defined]

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """Give a connection on which each statement sees the latest committed state."""
        with self._reader.connect() as connection:
            yield connection

    @contextmanager
    def writing(self, *, durable: bool = True) -> Iterator[Connection]:
        """Give a connection in a transaction that commits, or leaves no trace on an error.

        Parameters
        ----------
        durable : bool
            Whether the commit waits for the disk. One that does not survives the end of the process,
            and a loss of power once a later durable one has been committed.
        """
        engine = self._writer if durable else self._prompt_writer
        with engine.begin() as connection:
            yield connection

    @contextmanager
    def exclusively(self, name: str) -> Iterator[bool]:
        """Keep other gateways out while the block runs; yields False if one is in already.

        PostgreSQL holds the lock for a connection, so that a gateway which is killed loses it. SQLite
        has one gateway, whose threads have locks of their own.

        Parameters
        ----------
        name : str
            Of what is to be done by one gateway at a time.
        """
        if self.in_process:
            yield True
            return
        with self._reader.connect() as connection:
            named = {"space": LOCK_SPACE, "name": name}
            if not connection.execute(_TRY_LOCK, named).scalar_one():
                yield False
                return
            try:
                yield True
            finally:
                if not connection.invalidated:
                    connection.execute(_RELEASE_LOCK, named)

    def insert(self, table: Table) -> sqlite.Insert | postgresql.Insert:
        """Return an insert that can say what happens on a conflict, in this database's dialect."""
        return sqlite.insert(table) if self.in_process else postgresql.insert(table)

    def insert_or_ignore(self, table: Table) -> Insert:
        """Return an insert that changes nothing where the primary key exists; see its ``rowcount``."""
        insert = self.insert(table).on_conflict_do_nothing()
        return insert.execution_options(preserve_rowcount=True)

    def prepare(self, statement: Select[Any] | Insert) -> Prepared:
        """Return a statement that runs without detours; see :class:`Prepared`."""
        return Prepared(statement, self._writer.dialect)

    def forget_deleted(self) -> None:
        """Move deletions out of SQLite's log, so that deleted rows do not linger on disk there."""
        if self.in_process:
            with self._reader.connect() as connection:
                connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)").all()

    def close(self) -> None:
        """Close every connection."""
        self._reader.dispose()
        self._writer.dispose()

    def _prepare_schema(self) -> None:
        with self._writer.begin() as connection:
            if not self.in_process:
                # Several gateways may start at once; the number is arbitrary but must not change.
                connection.execute(text("SELECT pg_advisory_xact_lock(7201980316)"))
            prepare_schema(connection, metadata, shown=self._shown)


def _parse(url: str) -> URL:
    try:
        parsed = make_url(url)
    except ArgumentError:
        raise DatabaseUnusableError(
            f"{url[:60]!r} is no database URL; an example is sqlite:///pocketfl.db"
        ) from None
    name = parsed.get_backend_name()
    if name not in ("sqlite", "postgresql"):
        raise DatabaseUnusableError(f"{name} is not supported; use sqlite or postgresql+psycopg")
    if name == "postgresql":
        return parsed.set(drivername="postgresql+psycopg")
    if parsed.database in (None, "", ":memory:") or "mode=memory" in (parsed.database or ""):
        raise DatabaseUnusableError(
            "a database in memory would lose what devices were promised; name a file: sqlite:///FILE"
        )
    return parsed


def _engines(url: URL) -> tuple[Engine, Engine]:
    """Return the writing and the reading engine."""
    if url.get_backend_name() == "postgresql":
        engine = create_engine(
            url,
            pool_size=8,
            max_overflow=8,
            pool_pre_ping=True,
            hide_parameters=True,
            connect_args={
                # Tells gateways apart in pg_stat_activity.
                "application_name": f"pocketfl gateway {os.getpid()}",
                **{f"keepalives_{name}": value for name, value in _ALIVE.items()},
            },
        )
        event.listen(engine, "connect", _set_up_postgresql)
        event.listen(engine, "begin", _begin_on_postgresql)
        return engine, engine.execution_options(isolation_level="AUTOCOMMIT")
    # Parameters stay out of error messages, for they are tokens, users and reports.
    arguments: dict[str, Any] = {
        "connect_args": {"timeout": BUSY_TIMEOUT_SECONDS},
        "hide_parameters": True,
    }
    # One writing connection: writers queue here in order, instead of polling for SQLite's lock.
    writer = create_engine(url, pool_size=1, max_overflow=0, pool_timeout=60, **arguments)
    reader = create_engine(
        url, pool_size=4, max_overflow=12, isolation_level="AUTOCOMMIT", **arguments
    )
    event.listen(writer, "connect", _set_up_sqlite)
    event.listen(writer, "begin", _begin_on_sqlite)
    event.listen(reader, "connect", _set_up_sqlite)
    return writer, reader


def _set_up_sqlite(connection: sqlite3.Connection, _record: object) -> None:
    # The driver must not begin transactions by itself: BEGIN IMMEDIATE takes the lock up front, where
    # waiting for it is safe, instead of at the first write.
    connection.isolation_level = None
    for pragma in (
        "journal_mode=WAL",
        "synchronous=FULL",
        "foreign_keys=ON",
        "secure_delete=FAST",
        "temp_store=MEMORY",
        "cache_size=-16384",
    ):
        connection.execute(f"PRAGMA {pragma}").fetchall()


def _set_up_postgresql(connection: DBAPIConnection, _record: object) -> None:
    cursor = connection.cursor()
    for name, value in _ALIVE.items():
        cursor.execute(f"SET SESSION tcp_keepalives_{name} = {value}")
    connection.commit()


def _begin_on_sqlite(connection: Connection) -> None:
    durable = connection.get_execution_options().get("durable", True)
    cursor = connection.connection.cursor()
    cursor.execute("PRAGMA synchronous=FULL" if durable else "PRAGMA synchronous=NORMAL")
    cursor.execute("BEGIN IMMEDIATE")


def _begin_on_postgresql(connection: Connection) -> None:
    if not connection.get_execution_options().get("durable", True):
        connection.connection.cursor().execute("SET LOCAL synchronous_commit TO OFF")
