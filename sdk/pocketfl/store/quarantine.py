"""A damaged file is set aside, and the app goes on with a fresh one."""

from __future__ import annotations

import os
import sqlite3
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pocketfl.database import LOST_STATE, Database, damage_mark, quote
from pocketfl.errors import StoreDamagedError
from pocketfl.file_lock import locked_file
from pocketfl.store.declarations import settle_declarations
from pocketfl.store.soundness import UNSOUND_ROWS, find_fault

_LARGEST_ID: Final = 2**60
_LEAP: Final = 2**20

_PARTS: Final = ("", "-wal", "-shm")


@dataclass(frozen=True, kw_only=True)
class Quarantine:
    """What happened to a damaged file.

    Attributes
    ----------
    moved_to : Path
        Where it is now; only the latest one is kept.
    reason : str
        What was wrong.
    saved : dict of str to int
        Rows of each table that could be read and are in the fresh file.
    lost : tuple of str
        Tables that could not be read to their end.
    """

    moved_to: Path
    reason: str
    saved: dict[str, int]
    lost: tuple[str, ...]


def open_database(path: Path, *, durable: bool) -> tuple[Database, Quarantine | None]:
    """Open a store's file; set it aside and start a fresh one where it is damaged.

    Raises
    ------
    StoreError
        If it cannot be opened for another reason.
    """
    mark = damage_mark(path)
    if not os.path.exists(mark):  # noqa: PTH110 - three times as fast, at every opening
        try:
            return Database(path, durable=durable), None
        except StoreDamagedError:
            pass
    with locked_file(path.with_name(path.name + "-quarantine")):
        # Another process may have been quicker, or the damage may have been another file's.
        reason = _find_damage(path, durable=durable)
        if reason is None:
            mark.unlink(missing_ok=True)
            return Database(path, durable=durable), None
        aside = path.with_name(path.name + "-damaged-file")
        for part in _PARTS:
            source, target = (file.with_name(file.name + part) for file in (path, aside))
            target.unlink(missing_ok=True)
            if source.exists():
                source.replace(target)
        database = Database(path, durable=durable)
        try:
            with database.transaction():
                saved, lost = _salvage(aside, database)
                # What an earlier quarantine lost has been heard of, and may be copied along.
                database.delete_state(LOST_STATE)
                database.record_loss(lost)
        except BaseException:
            database.close()
            raise
        mark.unlink(missing_ok=True)
        return database, Quarantine(moved_to=aside, reason=reason, saved=saved, lost=lost)


def _find_damage(path: Path, *, durable: bool) -> str | None:
    try:
        with Database(path, durable=durable) as database:
            return find_fault(database)
    except StoreDamagedError as error:
        return str(error)


def _salvage(source: Path, database: Database) -> tuple[dict[str, int], tuple[str, ...]]:
    """Copy what can be read, all modules' tables included; return rows saved and tables cut short."""
    saved: dict[str, int] = {}
    lost: list[str] = []
    damaged = sqlite3.connect(source, isolation_level=None)
    # A text that is none cannot be written again, so its row alone is left out.
    damaged.text_factory = lambda text: text.decode(errors="surrogateescape")
    try:
        try:
            # Only what it says of one table may be unreadable: that hides no other table then.
            damaged.execute("PRAGMA writable_schema=ON")
            schema = damaged.execute(
                "SELECT name, sql FROM sqlite_schema WHERE sql IS NOT NULL AND "
                "type IN ('table', 'index') ORDER BY type = 'index', name"
            ).fetchall()
        except _UNREADABLE:
            return {}, ("everything",)
        with database.transaction() as connection:
            known = {n for (n,) in database.query("SELECT name FROM sqlite_schema")}
            for name, sql in schema:
                if name.startswith("sqlite_"):
                    continue
                if name not in known:
                    try:
                        connection.execute(sql)
                    except _UNREADABLE:
                        lost.append(name)
                        continue
                if sql.lstrip().upper().startswith("CREATE TABLE"):
                    saved[name], whole = _copy_table(damaged, connection, name)
                    if not whole:
                        lost.append(name)
            if "table_versions" in lost:
                dropped = _drop_modules(connection, [name for name in saved if name not in known])
                saved.update(dict.fromkeys(dropped, 0))
                lost += [name for name in dropped if name not in lost]
            if not _copy_sequences(damaged, connection):
                lost.append("sqlite_sequence")
            settle_declarations(database)
            for statement in _TIDY:
                connection.execute(statement)
        return saved, tuple(lost)
    finally:
        damaged.close()


# A damaged file makes SQLite say things that are no text, too.
_UNREADABLE: Final = (sqlite3.Error, UnicodeError)

_TIDY: Final = (
    # Examples without their collection, or without its key, cannot be read.
    "DELETE FROM collection_layouts WHERE collection NOT IN (SELECT id FROM collections)",
    "DELETE FROM examples WHERE collection NOT IN "
    "(SELECT id FROM collections WHERE wrapped_key IS NOT NULL)",
    "UPDATE collections SET "
    "examples = (SELECT count(*) FROM examples WHERE collection = collections.id), "
    "bytes = (SELECT coalesce(sum(size), 0) FROM examples WHERE collection = collections.id)",
)


def _copy_table(
    damaged: sqlite3.Connection, connection: sqlite3.Connection, name: str
) -> tuple[int, bool]:
    """Copy a table from its start, and where that ends in damage, from its end, too."""
    quoted = quote(name)
    columns = [row[1] for row in connection.execute(f"PRAGMA table_info({quoted})")]
    if not columns:
        return 0, False  # the statement that was kept for it makes another one
    before = connection.execute(f"SELECT count(*) FROM {quoted}").fetchone()[0]  # noqa: S608
    reached = skipped = False
    for order in ("", " ORDER BY rowid DESC"):
        try:
            cursor = damaged.execute(f"SELECT * FROM {quoted}{order}")  # noqa: S608
            # A column whose name is garbled is told by its place.
            found = [column[0] for column in cursor.description]
            names = columns if len(found) == len(columns) else found
            listed = ",".join(map(quote, names))
            insert = (
                f"INSERT OR IGNORE INTO {quoted}({listed}) VALUES({','.join('?' * len(names))})"
            )
            for row in cursor:
                try:
                    skipped |= not connection.execute(insert, row).rowcount and not order
                except UnicodeEncodeError:
                    skipped = True
            reached = reached or not order
        except _UNREADABLE:
            continue
        if reached:
            break
    condition = UNSOUND_ROWS.get(name)
    if condition is not None:
        deleted = connection.execute(f"DELETE FROM {quoted} WHERE {condition}").rowcount  # noqa: S608
        skipped = skipped or deleted > 0
    after = connection.execute(f"SELECT count(*) FROM {quoted}").fetchone()[0]  # noqa: S608
    return after - before, reached and not skipped


def _drop_modules(connection: sqlite3.Connection, names: list[str]) -> list[str]:
    """Give up tables of which nobody knows the version: their modules make them afresh."""
    connection.execute("DELETE FROM table_versions")
    dropped = [name for name in names if name != "table_versions"]
    for name in dropped:
        connection.execute(f"DROP TABLE {quote(name)}")
    return dropped


def _copy_sequences(damaged: sqlite3.Connection, connection: sqlite3.Connection) -> bool:
    """Carry on with the numbers of the damaged file: no id may come to mean another example."""
    try:
        sequences = dict(damaged.execute("SELECT name, seq FROM sqlite_sequence").fetchall())
    except _UNREADABLE:
        sequences = {}
    whole = True
    for name in ("collections", "examples"):
        highest = connection.execute(f"SELECT coalesce(max(id), 0) FROM {name}").fetchone()[0]  # noqa: S608
        last = sequences.get(name)
        if not isinstance(last, int) or not highest <= last < _LARGEST_ID:
            # Nobody knows how far it was: rows that are lost may have had higher numbers.
            last, whole = highest + _LEAP, highest == 0 and name in sequences
        connection.execute("DELETE FROM sqlite_sequence WHERE name = ?", (name,))
        connection.execute("INSERT INTO sqlite_sequence(name, seq) VALUES(?, ?)", (name, last))
    return whole
