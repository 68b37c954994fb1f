"""The example store: what the app puts in, and what a round takes out."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Collection as AbstractCollection
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from pocketfl.errors import StoreDamagedError, StoreError
from pocketfl.protocol import FeatureRow
from pocketfl.store import server_features
from pocketfl.store.catalog import Catalog, CatalogEntry, next_example_id
from pocketfl.store.encryption import OVERHEAD_BYTES
from pocketfl.store.eviction import (
    EVICTION_STEP,
    change_totals,
    evict,
    expire,
    has_expired,
    total_size,
)
from pocketfl.store.quarantine import open_database
from pocketfl.store.reading import read_selection
from pocketfl.store.revocation import Erasure, Sessions, erase_collection, finish_revocations
from pocketfl.store.schema import Collection
from pocketfl.store.server_features import ServerFeatures
from pocketfl.store.upgrade import encrypt_version_1
from pocketfl.store.vault import KeyVault, default_vault


@dataclass(frozen=True)
class Examples:
    """Some examples of one collection, column by column.

    Attributes
    ----------
    ids : ndarray of int64, shape (n,)
        The store's own numbers, rising with the order of ``append``.
    times : ndarray of float64, shape (n,)
        Unix time of each example in seconds.
    columns : dict of str to list
        ``n`` values per field; ``None`` where missing.
    """

    ids: NDArray[np.int64]
    times: NDArray[np.float64]
    columns: dict[str, list[Any]]

    def __len__(self) -> int:
        return len(self.ids)


class ExampleStore:
    """Typed collections of examples in one SQLite file, encrypted; a context manager.

    A damaged file does not stop the app: it is set aside, what can be read of it goes into a fresh one,
    and :attr:`quarantine` says so.

    Parameters
    ----------
    path : str or Path
        The file; made when it does not exist.
    vault : KeyVault, optional
        Keeps the device's key; by default Android's keystore on Android, elsewhere a file beside the
        store, named as the store with ``-key`` after it. Several stores may share one.
    durable : bool
        See :class:`~pocketfl.database.Database`; off only for simulated fleets.
    clock : callable, optional
        Unix time in seconds.

    Raises
    ------
    StoreError
        If the file is not ours, was written by a newer version, or cannot be opened.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        vault: KeyVault | None = None,
        durable: bool = True,
        clock: Callable[[], float] = time.time,
    ) -> None:
        database, quarantine = open_database(Path(path), durable=durable)
        self.database: Final = database
        self.quarantine: Final = quarantine
        """What happened if the file was damaged; None if it was sound."""
        self._clock = clock
        self._sessions = Sessions()
        vault = vault if vault is not None else default_vault(self.database.path)
        self._catalog = Catalog(self.database, vault)
        if self.database.version == 1:
            try:
                encrypt_version_1(self.database, vault)
            except BaseException:
                self.database.close()
                raise

    def create_collection(self, collection: Collection) -> None:
        """Make a collection; nothing happens when it exists as declared.

        An existing collection takes new fields, if they are optional: examples from before have None
        there. It also takes another retention, which holds for the examples that it has, too; another
        ``max_age_seconds`` dates all of them anew, about 3 s for a million.

        Raises
        ------
        StoreError
            If it exists with other fields.
        """
        self._catalog.declare(collection)

    def collections(self) -> tuple[Collection, ...]:
        """Return all collections, by name."""
        return tuple(self.collection(name) for name in self._catalog.names())

    def has_collection(self, name: str) -> bool:
        """Return whether there is a collection of that name."""
        return self._catalog.has(name)

    def collection(self, name: str) -> Collection:
        """Return a collection as it was declared.

        Raises
        ------
        StoreError
            If there is none of that name.
        """
        return self._catalog.current(name)[0].collection

    def find_collection(self, name: str) -> Collection | None:
        """Return a collection as it was declared, or None if there is none of that name."""
        found = self._catalog.find(name)
        return None if found is None else found[0].collection

    def append(
        self,
        name: str,
        examples: Iterable[Mapping[str, object]],
        *,
        times: Iterable[float] | None = None,
    ) -> int:
        """Add examples: all of them, or none when one does not fit.

        Where the collection is over a quota then, the oldest examples go, at once but for one case:
        beyond as many as were added, at most 1,000 go at a time, so that the app is not kept waiting;
        the rest goes with the next appends, or with :meth:`evict`.

        Parameters
        ----------
        name : str
            The collection.
        examples : iterable of mapping
            Field name to value. Many at once are much faster than one at a time.
        times : iterable of float, optional
            Unix time of each example in seconds; now by default. Server-side features are joined as
            of this time.

        Returns
        -------
        int
            How many were added.

        Raises
        ------
        StoreError
            Naming collection, field, row index, and what was expected and found.
        KeyUnavailableError
            If the collection's key is lost.
        """
        entry, _, _ = self._catalog.current(name)
        now = self._clock()
        rows = list(examples)
        payloads = _encode(entry, rows)
        moments = _check_times(name, times, len(payloads), now)
        if not rows:
            return 0
        with self.database.transaction() as connection:
            found, count, size = self._catalog.current(name)
            if found is not entry:
                entry, payloads = found, _encode(found, rows)
            entry = self._catalog.with_key(entry)
            first = next_example_id(self.database)
            ids = range(first, first + len(payloads))
            expires = entry.collection.retention.max_age_seconds
            expires_at = None if expires is None else now + expires
            number = entry.number
            sealed = entry.cipher.seal(payloads, ids=ids, times=moments)
            added = sum(map(len, sealed))
            connection.executemany(
                "INSERT INTO examples(id, collection, time, created_at, expires_at, size, payload) "
                "VALUES(?, ?, ?, ?, ?, ?, ?)",
                [
                    (row, number, moment, now, expires_at, len(data), data)
                    for row, moment, data in zip(ids, moments, sealed, strict=True)
                ],
            )
            gone, freed = evict(
                self.database,
                entry,
                examples=count + len(ids),
                size=size + added,
                at_most=len(ids) + EVICTION_STEP,
            )
            change_totals(self.database, entry, examples=len(ids) - gone, size=added - freed)
        return len(ids)

    def evict(self) -> int:
        """Delete what has expired and what is beyond a quota, in small transactions.

        Selections never take an expired example, so this is only about space: call it when the app is
        at rest, for one after a quota was lowered.

        Returns
        -------
        int
            How many examples were deleted.
        """
        deleted = finish_revocations(self.database, step=EVICTION_STEP)
        for name in self._catalog.names():
            while True:
                with self.database.transaction():
                    entry, count, size = self._catalog.current(name)
                    gone, freed = evict(
                        self.database, entry, examples=count, size=size, at_most=EVICTION_STEP
                    )
                    change_totals(self.database, entry, examples=-gone, size=-freed)
                if not gone:
                    break
                deleted += gone
            deleted += self._expire(name)
        return deleted

    def _expire(self, name: str) -> int:
        entry, deleted, now = self._catalog.entry(name), 0, self._clock()
        while has_expired(self.database, entry, now=now):
            with self.database.transaction():
                gone, freed = expire(self.database, entry, now=now, at_most=EVICTION_STEP)
                change_totals(self.database, entry, examples=-gone, size=-freed)
            deleted += gone
        return deleted

    def count(self, name: str) -> int:
        """Return the number of examples in a collection."""
        self._expire(name)
        return self._catalog.current(name)[1]

    def last_id(self, name: str) -> int:
        """Return the highest id of a collection's examples, 0 without any; ids are never used again."""
        rows = self.database.query(
            "SELECT id, (SELECT max(id) FROM examples WHERE collection = collections.id) "
            "FROM collections WHERE name = ?",
            (name,),
        )
        if not rows:
            raise self._catalog.missing(name)
        return int(rows[0][1] or 0)

    def select(self, name: str, *, limit: int, seed: int, up_to: int | None = None) -> Examples:
        """Take examples by chance, the same ones for the same contents and seed.

        They come in the order in which they were appended, and only those taken are read. Examples
        that turn out to be damaged are deleted and counted (:meth:`damaged`), and others taken.

        Parameters
        ----------
        name : str
            The collection.
        limit : int
            Most examples to take; all are taken when there are no more.
        seed : int
            Not negative.
        up_to : int, optional
            Take no example with a higher id: what is appended later changes nothing (see
            :meth:`last_id`).

        Returns
        -------
        selected : Examples
            Their ids, times and columns.

        Raises
        ------
        StoreError
            If there is no such collection.
        StoreDamagedError
            If the file is damaged, beyond some examples.
        KeyUnavailableError
            If the collection's key is lost.
        """
        if limit < 0 or seed < 0:
            raise StoreError(f"select from {name!r}: limit and seed cannot be negative")
        while True:
            self._expire(name)
            with self.database.snapshot():
                entry, count, _ = self._catalog.current(name)
                rows = read_selection(
                    self.database, entry.number, count, limit=limit, seed=seed, up_to=up_to
                )
            ids, times, sealed = zip(*rows, strict=True) if rows else ((), (), ())
            try:
                columns = entry.decode(ids, times, sealed)
            except StoreDamagedError:
                self._drop_damaged(entry, ids, times, sealed)
                continue
            return Examples(
                np.array(ids, dtype=np.int64), np.array(times, dtype=np.float64), columns
            )

    def _drop_damaged(
        self,
        entry: CatalogEntry,
        ids: Sequence[int],
        times: Sequence[float],
        sealed: Sequence[bytes],
    ) -> None:
        """Delete examples that nobody can read any more, and count them.

        Raises
        ------
        StoreDamagedError
            If that is all of several: then something else is wrong than a row, such as the key.
        """
        damaged = entry.damaged(ids, times, sealed)
        name = entry.collection.name
        if len(damaged) == len(ids) > 1:
            raise StoreDamagedError(
                f"collection {name!r}: none of {len(ids)} examples can be read with its key; put back "
                "a sound copy of the store, or revoke() the collection to start afresh"
            )
        with self.database.transaction() as connection:
            deleted = self.delete(name, ids=damaged)
            if deleted < len(damaged):
                raise self.database.report_damage("an index does not know what a table has")
            connection.execute(
                "UPDATE collections SET damaged = damaged + ? WHERE id = ?", (deleted, entry.number)
            )

    def damaged(self, name: str) -> int:
        """Return how many examples of a collection were found damaged, and deleted, so far.

        Raises
        ------
        StoreError
            If there is no such collection.
        """
        number = self._catalog.current(name)[0].number
        rows = self.database.query("SELECT damaged FROM collections WHERE id = ?", (number,))
        return int(rows[0][0])

    def preview(self, name: str, *, limit: int, seed: int) -> list[dict[str, Any]]:
        """Return what a round with this limit and seed would train on, to show it to a person.

        Returns
        -------
        list of dict
            One per example: its fields, as :meth:`select` takes them.

        Raises
        ------
        StoreError
            As :meth:`select`.
        """
        chosen = self.select(name, limit=limit, seed=seed)
        return [
            dict(zip(chosen.columns, values, strict=True))
            for values in zip(*chosen.columns.values(), strict=True)
        ]

    def delete(self, name: str, *, ids: Iterable[int] | None = None) -> int:
        """Delete examples of a collection: those given by id, or all.

        Returns
        -------
        int
            How many there were. Ids of other collections are left alone.
        """
        with self.database.transaction() as connection:
            entry, count, size = self._catalog.current(name)
            if ids is None:
                connection.execute("DELETE FROM examples WHERE collection = ?", (entry.number,))
                change_totals(self.database, entry, examples=-count, size=-size)
                return count
            gone = freed = 0
            for number in ids:
                row = (entry.number, int(number))
                for (length,) in self.database.query(
                    "SELECT size FROM examples WHERE collection = ? AND id = ?", row
                ):
                    gone, freed = gone + 1, freed + total_size(self.database, [length])
                    connection.execute("DELETE FROM examples WHERE collection = ? AND id = ?", row)
            change_totals(self.database, entry, examples=-gone, size=-freed)
            return gone

    def revoke(self, name: str) -> Erasure:
        """Withdraw the consent for a collection: erase it, and all that was made from it here.

        Running sessions are cancelled. Then the collection's key is destroyed, and with it go, in one
        transaction, checkpoints, pending reports, personal parameters and the declaration of the
        collection; then its examples and the write-ahead log. What a process that dies meanwhile leaves
        over cannot be read any more, and is deleted when the store is opened for :meth:`evict` or
        :meth:`revoke`.

        Reports that were sent and models that were released stay what they are, and no claim is made
        about what flash memory keeps underneath the file system.

        Parameters
        ----------
        name : str
            The collection; one that does not exist is no error, so that a revocation can be repeated.

        Returns
        -------
        Erasure
            What was erased.

        Raises
        ------
        StoreError
            Within a transaction, or if another process keeps the file's log from being emptied; all
            else is done then.
        """
        cancelled = self._sessions.cancel(name)
        with self.database.erasing():
            examples, derived = erase_collection(self.database, name)
            self._catalog.forget(name)
            finish_revocations(self.database, step=EVICTION_STEP)
        return Erasure(examples=examples, derived=derived, sessions=cancelled)

    def session(self, name: str, cancel: Callable[[], None]) -> AbstractContextManager[None]:
        """Have ``cancel`` called when a collection is revoked while the block runs.

        Parameters
        ----------
        name : str
            The collection that the session works on.
        cancel : callable
            Called from the thread that revokes; must return at once and not raise.
        """
        return self._sessions.register(name, cancel)

    def put_server_features(
        self, table: str, rows: Iterable[FeatureRow], *, cursor: str | None = None
    ) -> int:
        """Keep server-side features; a row of the same key and time replaces the older one.

        Parameters
        ----------
        table : str
            The back end's table.
        rows : iterable of FeatureRow
            Any order.
        cursor : str, optional
            Where to go on downloading; kept together with the rows, or not at all.

        Returns
        -------
        int
            How many rows were kept.

        Raises
        ------
        StoreError
            Naming the row that is too large or holds a number that is not finite.
        """
        return server_features.put_server_features(self.database, table, rows, cursor=cursor)

    def server_features(
        self, table: str, *, keys: AbstractCollection[str] | None = None
    ) -> ServerFeatures:
        """Return rows of server-side features by key.

        Parameters
        ----------
        table : str
            The back end's table; an unknown one is empty.
        keys : collection of str, optional
            Read only the rows of these keys.

        Returns
        -------
        mapping of str to list of (valid_from, values)
            Lists are in the order of ``valid_from``.

        Raises
        ------
        StoreError
            If a row is damaged.
        """
        return server_features.server_features(self.database, table, keys=keys)

    def server_features_cursor(self, table: str) -> str | None:
        """Return where downloading of a table stopped, or None before the first time."""
        return server_features.server_features_cursor(self.database, table)

    def close(self) -> None:
        """Close the file; further calls raise :class:`StoreError`."""
        self.database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def _check_times(name: str, times: Iterable[float] | None, count: int, now: float) -> list[float]:
    if times is None:
        return [now] * count
    moments = [float(moment) for moment in times]
    if len(moments) != count:
        raise StoreError(f"collection {name!r}: {count} examples, but {len(moments)} times")
    for row, moment in enumerate(moments):
        if not math.isfinite(moment):
            raise StoreError(f"collection {name!r}, row {row}: the time is not finite")
    return moments


def _encode(entry: CatalogEntry, rows: Sequence[Mapping[str, object]]) -> list[bytes]:
    encode = entry.codec.encode
    payloads = [encode(example, row=row) for row, example in enumerate(rows)]
    quota = entry.collection.retention.max_bytes
    if quota is not None and payloads and max(map(len, payloads)) + OVERHEAD_BYTES > quota:
        raise StoreError(
            f"collection {entry.collection.name!r}: an example of "
            f"{max(map(len, payloads)) + OVERHEAD_BYTES} bytes is larger than the quota of {quota}"
        )
    return payloads
