"""What SQLite's own check of a file does not see: rows that are in order and hold something else."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from pocketfl.database import Database, new_tables, quote
from pocketfl.errors import StoreDamagedError
from pocketfl.store.declarations import read_copy, read_declaration

UNSOUND_ROWS: Final = {
    "examples": "typeof(collection) != 'integer' OR typeof(time) != 'real' "
    "OR typeof(created_at) != 'real' OR typeof(expires_at) NOT IN ('real', 'null') "
    "OR typeof(payload) != 'blob' OR size IS NOT length(payload)",
    "collections": "typeof(name) != 'text' OR typeof(retention) != 'blob' "
    "OR typeof(wrapped_key) NOT IN ('blob', 'null') OR typeof(revision) != 'integer' "
    "OR typeof(damaged) != 'integer'",
    "collection_layouts": "typeof(collection) != 'integer' OR typeof(first_id) != 'integer' "
    "OR typeof(schema) != 'blob'",
    "server_features": "typeof(feature_table) != 'text' OR typeof(key) != 'text' "
    "OR typeof(valid_from) != 'real' OR typeof(payload) != 'blob'",
    "device_state": "typeof(name) != 'text' OR typeof(value) != 'blob'",
    "participations": "typeof(task) != 'text' OR typeof(round) != 'integer' "
    "OR typeof(plan_sha256) != 'text' OR typeof(tossed_at) != 'real' OR typeof(state) != 'text'",
}
"""Conditions on rows that nobody wrote, by table."""

_TOTALS: Final = (
    "SELECT 1 FROM collections WHERE "
    "examples IS NOT (SELECT count(*) FROM examples WHERE collection = collections.id) OR "
    "bytes IS NOT (SELECT coalesce(sum(size), 0) FROM examples WHERE collection = collections.id)"
)
_SEQUENCES: Final = ("collections", "examples")


def find_fault(database: Database) -> str | None:
    """Return what is wrong with a file of this version; None if it is sound. Reads all of it.

    Raises
    ------
    StoreError
        If it cannot be read for another reason than damage.
    """
    try:
        with database.snapshot():
            return next(_faults(database), None)
    except StoreDamagedError as error:
        return str(error)


def _faults(database: Database) -> Iterator[str]:
    found = str(database.query("PRAGMA integrity_check(1)")[0][0])
    if found != "ok":
        yield found
    if database.version == 1:
        return
    for table, columns in new_tables().items():
        known = database.query("SELECT name FROM pragma_table_info(?)", (table,))
        if not columns <= {name for (name,) in known}:
            yield f"table {table} lacks columns"
    for (table,) in database.query("SELECT name FROM sqlite_schema WHERE type = 'table'"):
        # Nothing else shows a text that is none.
        database.read_through(f"SELECT * FROM {quote(table)}")  # noqa: S608
    for table, condition in UNSOUND_ROWS.items():
        if database.query(f"SELECT 1 FROM {table} WHERE {condition} LIMIT 1"):  # noqa: S608
            yield f"table {table} has a row that nobody wrote"
    if database.query(_TOTALS):
        yield "it has not as many examples as were counted"
    for table in _SEQUENCES:
        if database.query(
            f"SELECT 1 FROM {table} WHERE id > "  # noqa: S608
            "coalesce((SELECT seq FROM sqlite_sequence WHERE name = ?), 0) LIMIT 1",
            (table,),
        ):
            yield f"table {table} does not know its last number"
    for (name,) in database.query("SELECT name FROM collections"):
        declaration, copy = read_declaration(database, name), read_copy(database, name)
        if declaration is None or not declaration.is_sound(name):
            yield f"the schema of collection {name!r} is gone"
        elif copy not in (None, declaration.encode()):
            yield f"collection {name!r} is not what was declared"
