"""Which rows a selection takes, read with as few steps as the file allows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from pocketfl.database import Database
from pocketfl.errors import StoreDamagedError
from pocketfl.store.selection import choose

_CHUNK: Final = 500
"""Ids per statement: old SQLite builds on phones take 999 parameters at most."""
_LAST: Final = 2**63 - 1
"""No id is higher."""
_PAGE: Final = 10_000
"""Up to so many examples, all ids are read where a collection has gaps; above, SQLite counts."""


def read_selection(
    database: Database, collection: int, count: int, *, limit: int, seed: int, up_to: int | None
) -> list[tuple[Any, ...]]:
    """Read ``limit`` of a collection's rows, chosen by the seed; within a snapshot.

    Parameters
    ----------
    database : Database
        The device's file.
    collection, count : int
        The collection's number, and how many examples it has.
    limit, seed, up_to
        As for :meth:`ExampleStore.select`.

    Returns
    -------
    list of (id, time, payload)
        With rising ids; payloads are sealed.

    Raises
    ------
    StoreDamagedError
        If there are not as many rows as counted.
    """
    query = database.query
    if limit >= count:
        # All that there are, or all up to that one.
        rows = query(
            "SELECT id, time, payload FROM examples WHERE collection = ? AND id <= ? ORDER BY id",
            (collection, _LAST if up_to is None else up_to),
        )
        if up_to is None and len(rows) != count:
            raise _miscounted(database)
        return rows
    # Two look-ups in the index; min and max of one SELECT would walk it instead.
    ((first, last),) = query(
        "SELECT (SELECT min(id) FROM examples WHERE collection = ?1), "
        "(SELECT max(id) FROM examples WHERE collection = ?1)",
        (collection,),
    )
    if up_to is not None and last is not None and up_to < last:
        ((count, last),) = query(
            "SELECT count(*), max(id) FROM examples WHERE collection = ? AND id <= ?",
            (collection, up_to),
        )
    if limit >= count:
        return query(
            "SELECT id, time, payload FROM examples WHERE collection = ? AND id <= ? ORDER BY id",
            (collection, last or 0),
        )
    places = choose(count, limit=limit, seed=seed)
    ids: list[int]
    if last - first + 1 == count:
        ids = (places + first).tolist()
    elif count <= _PAGE:
        known = query("SELECT id FROM examples WHERE collection = ? ORDER BY id", (collection,))
        if len(known) < count:
            raise _miscounted(database)
        ids = [known[place][0] for place in places.tolist()]
    else:
        ids = _ids_at(database, collection, places.tolist())
    rows = []
    for start in range(0, len(ids), _CHUNK):
        chunk = ids[start : start + _CHUNK]
        marks = ",".join("?" * len(chunk))
        rows += query(
            f"SELECT id, time, payload FROM examples WHERE id IN ({marks}) ORDER BY id",  # noqa: S608
            chunk,
        )
    if len(rows) != len(ids):
        raise _miscounted(database)
    return rows


def _ids_at(database: Database, collection: int, places: Sequence[int]) -> list[int]:
    """Return the ids at rising places of a collection's order, reading no others."""
    found: list[int] = []
    after, passed = -(2**63), -1
    for place in places:
        rows = database.query(
            "SELECT id FROM examples WHERE collection = ? AND id > ? ORDER BY id LIMIT 1 OFFSET ?",
            (collection, after, place - passed - 1),
        )
        if not rows:
            raise _miscounted(database)
        after, passed = rows[0][0], place
        found.append(after)
    return found


def _miscounted(database: Database) -> StoreDamagedError:
    return database.report_damage("it has not as many examples as were counted")
