"""Oldest first: what quota and age take away, in steps so small that nobody waits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from pocketfl.database import Database
from pocketfl.store.catalog import CatalogEntry

EVICTION_STEP: Final = 1_000
"""Most examples that one transaction evicts beyond those that it adds: a few milliseconds."""


def evict(
    database: Database, entry: CatalogEntry, *, examples: int, size: int, at_most: int
) -> tuple[int, int]:
    """Delete a collection's oldest examples until it is within its quotas, or ``at_most`` are gone.

    Parameters
    ----------
    database : Database
        In a transaction.
    entry : CatalogEntry
        The collection.
    examples, size : int
        What it has, in rows and bytes.
    at_most : int
        Bound on rows.

    Returns
    -------
    tuple of int
        Rows and bytes deleted; the collection's totals are for the caller to write.
    """
    quota = entry.collection.retention
    surplus = examples - quota.max_examples if quota.max_examples is not None else 0
    excess = size - quota.max_bytes if quota.max_bytes is not None else 0
    if surplus <= 0 and excess <= 0:
        return 0, 0
    # Reading no further than needed: sizes are in the same pages as what is deleted.
    rows = database.query(
        "SELECT id, size FROM examples WHERE collection = ? ORDER BY id LIMIT ?",
        (entry.number, at_most if excess > 0 else min(surplus, at_most)),
    )
    gone = freed = 0
    for _, length in rows:
        if gone >= surplus and freed >= excess:
            break
        gone += 1
        freed += total_size(database, [length])
    if gone:
        with database.transaction() as connection:
            connection.execute(
                "DELETE FROM examples WHERE collection = ? AND id <= ?",
                (entry.number, rows[gone - 1][0]),
            )
    return gone, freed


def expire(database: Database, entry: CatalogEntry, *, now: float, at_most: int) -> tuple[int, int]:
    """Delete examples of a collection that have expired, ``at_most`` of them; see :func:`evict`."""
    rows = database.query(
        "SELECT examples.id, examples.size FROM examples INDEXED BY examples_by_expiry "
        "WHERE collection = ? AND expires_at IS NOT NULL AND expires_at <= ? LIMIT ?",
        (entry.number, now, at_most),
    )
    if rows:
        with database.transaction() as connection:
            connection.executemany("DELETE FROM examples WHERE id = ?", [(row,) for row, _ in rows])
    return len(rows), total_size(database, [size for _, size in rows])


def total_size(database: Database, sizes: Sequence[int]) -> int:
    """Return the sum of what the file says of examples.

    Raises
    ------
    StoreDamagedError
        If one of them is no size.
    """
    if not all(isinstance(size, int) for size in sizes):
        raise database.report_damage("the size of an example is gone")
    return sum(sizes)


def has_expired(database: Database, entry: CatalogEntry, *, now: float) -> bool:
    """Whether a collection has an expired example."""
    return entry.collection.retention.max_age_seconds is not None and bool(
        database.query(
            "SELECT 1 FROM examples INDEXED BY examples_by_expiry WHERE collection = ? "
            "AND expires_at IS NOT NULL AND expires_at <= ? LIMIT 1",
            (entry.number, now),
        )
    )


def change_totals(database: Database, entry: CatalogEntry, *, examples: int, size: int) -> None:
    """Add to a collection's totals; within a transaction."""
    if examples or size:
        with database.transaction() as connection:
            connection.execute(
                "UPDATE collections SET examples = examples + ?, bytes = bytes + ? WHERE id = ?",
                (examples, size, entry.number),
            )
