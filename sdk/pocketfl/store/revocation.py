"""What a revoked consent takes along: running sessions, and all state made from the examples.

Whoever keeps something that was made from a collection's examples does one of two things, and it is
erased with the collection: name the state after the collection (:func:`derived_state`), or keep rows in
a table of :data:`DERIVED_TABLES`, whose column ``collection`` holds the collection's name.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from pocketfl.database import Database
from pocketfl.store.declarations import drop_copy

DERIVED_TABLES: Final = ("sessions", "checkpoints")
"""Sessions hold pending reports; both are tables of ``pocketfl.training``, made when first needed."""

_UNNAMED_STATE: Final = "personal_parameters/"
"""Personal parameters of before there were collections in names: nobody knows whose, so all go."""


@dataclass(frozen=True, kw_only=True)
class Erasure:
    """What :meth:`ExampleStore.revoke` erased.

    Attributes
    ----------
    examples : int
        How many the collection had.
    derived : int
        Rows of checkpoints, pending reports and personal parameters.
    sessions : int
        Sessions of this process that were told to stop.
    """

    examples: int
    derived: int
    sessions: int


def derived_state(collection: str, name: str) -> str:
    """Return the name, for ``Database.write_state``, of state made from a collection's examples."""
    return f"of_collection/{collection}/{name}"


def erase_collection(database: Database, collection: str) -> tuple[int, int]:
    """Destroy a collection's key with all that was made from its examples, in one transaction.

    Its examples, which nobody can read any more, are left to :func:`finish_revocations`.

    Returns
    -------
    tuple of int
        Examples that it had, and rows of what was made from them.
    """
    with database.transaction() as connection:
        rows = database.query("SELECT id, examples FROM collections WHERE name = ?", (collection,))
        for number, _ in rows:
            connection.execute("DELETE FROM collections WHERE id = ?", (number,))
            connection.execute("DELETE FROM collection_layouts WHERE collection = ?", (number,))
            connection.execute("INSERT INTO revoked_collections VALUES(?)", (number,))
        drop_copy(database, collection)
        return sum(count for _, count in rows), erase_derived_state(database, collection)


def finish_revocations(database: Database, *, step: int) -> int:
    """Delete the examples of revoked collections, at most ``step`` in a transaction.

    Returns
    -------
    int
        How many there were.
    """
    deleted = 0
    for (number,) in database.query("SELECT collection FROM revoked_collections"):
        gone = step
        while gone:
            with database.transaction() as connection:
                gone = connection.execute(
                    "DELETE FROM examples WHERE id IN "
                    "(SELECT id FROM examples WHERE collection = ? LIMIT ?)",
                    (number, step),
                ).rowcount
                if not gone:
                    connection.execute(
                        "DELETE FROM revoked_collections WHERE collection = ?", (number,)
                    )
            deleted += gone
    return deleted


def erase_derived_state(database: Database, collection: str) -> int:
    """Delete all that was made from a collection's examples; within a transaction.

    Returns
    -------
    int
        How many rows there were.
    """
    erased = 0
    with database.transaction() as connection:
        for prefix in (derived_state(collection, ""), _UNNAMED_STATE):
            # Ranges, not LIKE: a collection's name may contain "_".
            erased += connection.execute(
                "DELETE FROM device_state WHERE name >= ? AND name < ?",
                (prefix, prefix[:-1] + chr(ord(prefix[-1]) + 1)),
            ).rowcount
        for table in DERIVED_TABLES:
            columns = [row[1] for row in database.query(f"PRAGMA table_info({table})")]
            if "collection" in columns:
                erased += connection.execute(
                    f"DELETE FROM {table} WHERE collection = ?",  # noqa: S608
                    (collection,),
                ).rowcount
    return erased


class Sessions:
    """The sessions of this process that are to stop when their collection is revoked."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: dict[int, tuple[str, Callable[[], None]]] = {}
        self._next = 0

    @contextmanager
    def register(self, collection: str, cancel: Callable[[], None]) -> Iterator[None]:
        """Keep ``cancel`` for as long as the block runs."""
        with self._lock:
            number = self._next
            self._next += 1
            self._running[number] = (collection, cancel)
        try:
            yield
        finally:
            with self._lock:
                del self._running[number]

    def cancel(self, collection: str) -> int:
        """Call what is registered for a collection; return how many that were."""
        with self._lock:
            cancels = [cancel for name, cancel in self._running.values() if name == collection]
        for cancel in cancels:
            cancel()
        return len(cancels)
