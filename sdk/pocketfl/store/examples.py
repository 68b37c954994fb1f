"""The example store: what the app puts in, and what a round takes out."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Collection as AbstractCollection
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from pocketfl.database import Database
from pocketfl.errors import StoreError
from pocketfl.protocol import FeatureRow
from pocketfl.store.rows import RowCodec
from pocketfl.store.schema import Collection, decode_schema, encode_schema
from pocketfl.store.selection import choose

FeatureValue: TypeAlias = str | int | float | bool | None
ServerFeatures: TypeAlias = Mapping[str, list[tuple[float, dict[str, FeatureValue]]]]
"""By key: rows of ``(valid_from, values)`` with rising ``valid_from``."""

MAX_FEATURE_BYTES: Final = 64 * 2**10
"""Largest row of server-side features in bytes of JSON."""

_LARGEST_ID: Final = 2**63 - 1

_CHUNK: Final = 500
"""Ids per statement: old SQLite builds on phones take 999 parameters at most."""


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
    """Typed collections of examples in one SQLite file; a context manager.

    Parameters
    ----------
    path : str or Path
        The file; made when it does not exist.
    durable : bool
        See :class:`~pocketfl.database.Database`; off only for simulated fleets.

    Raises
    ------
    StoreError
        If the file is damaged or not ours.
    """

    def __init__(self, path: str | Path, *, durable: bool = True) -> None:
        self.database: Final = Database(path, durable=durable)
        self._open_collections: dict[str, tuple[int, Collection, RowCodec]] = {}

    def create_collection(self, collection: Collection) -> None:
        """Make a collection; nothing happens when it exists with the same fields.

        Raises
        ------
        StoreError
            If it exists with other fields.
        """
        with self.database.transaction() as connection:
            if not connection.execute(
                "SELECT 1 FROM collections WHERE name = ?", (collection.name,)
            ).fetchone():
                connection.execute(
                    "INSERT INTO collections(name, schema) VALUES(?, ?)",
                    (collection.name, encode_schema(collection)),
                )
                return
        existing = self.collection(collection.name)
        if existing.fields != collection.fields:
            names = sorted(
                name
                for name in existing.fields.keys() | collection.fields.keys()
                if existing.fields.get(name) != collection.fields.get(name)
            )
            raise StoreError(
                f"collection {collection.name!r} exists with other fields ({', '.join(names)} "
                "differ): keep the old declaration, or use a new collection name"
            )

    def collections(self) -> tuple[Collection, ...]:
        """Return all collections, by name."""
        names = self.database.query("SELECT name FROM collections ORDER BY name")
        return tuple(self.collection(name) for (name,) in names)

    def collection(self, name: str) -> Collection:
        """Return a collection as it was declared.

        Raises
        ------
        StoreError
            If there is none of that name.
        """
        return self._find(name)[1]

    def _find(self, name: str) -> tuple[int, Collection, RowCodec]:
        # A collection never changes once made, so one look suffices.
        if name not in self._open_collections:
            rows = self.database.query("SELECT id, schema FROM collections WHERE name = ?", (name,))
            if not rows:
                known = [n for (n,) in self.database.query("SELECT name FROM collections")]
                raise StoreError(
                    f"no collection {name!r} in {self.database.path} (it has: "
                    f"{', '.join(sorted(known)) or 'none'}); create_collection() makes one"
                )
            number, schema = rows[0]
            collection = decode_schema(name, schema)
            self._open_collections[name] = (number, collection, RowCodec(collection))
        return self._open_collections[name]

    def append(
        self,
        name: str,
        examples: Iterable[Mapping[str, object]],
        *,
        times: Iterable[float] | None = None,
    ) -> int:
        """Add examples: all of them, or none when one does not fit.

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
        """
        number, _, codec = self._find(name)
        now = time.time()
        encode = codec.encode
        payloads = [encode(example, row=row) for row, example in enumerate(examples)]
        moments = _check_times(name, times, len(payloads), now)
        with self.database.transaction() as connection:
            connection.executemany(
                "INSERT INTO examples(collection, time, created_at, size, payload) "
                "VALUES(?, ?, ?, ?, ?)",
                [
                    (number, moment, now, len(payload), payload)
                    for moment, payload in zip(moments, payloads, strict=True)
                ],
            )
        return len(payloads)

    def count(self, name: str) -> int:
        """Return the number of examples in a collection."""
        number = self._find(name)[0]
        rows = self.database.query("SELECT count(*) FROM examples WHERE collection = ?", (number,))
        return int(rows[0][0])

    def last_id(self, name: str) -> int:
        """Return the highest id of a collection's examples, 0 without any; ids are never used again."""
        number = self._find(name)[0]
        rows = self.database.query("SELECT max(id) FROM examples WHERE collection = ?", (number,))
        return int(rows[0][0] or 0)

    def select(self, name: str, *, limit: int, seed: int, up_to: int | None = None) -> Examples:
        """Take examples by chance, the same ones for the same contents and seed.

        They come in the order in which they were appended, and only those taken are read.

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
            If there is no such collection, or a row is damaged.
        """
        if limit < 0 or seed < 0:
            raise StoreError(f"select from {name!r}: limit and seed cannot be negative")
        number, _, codec = self._find(name)
        with self.database.snapshot():
            rows = self._read(number, limit=limit, seed=seed, up_to=up_to)
        ids, times, payloads = zip(*rows, strict=True) if rows else ((), (), ())
        return Examples(
            np.array(ids, dtype=np.int64),
            np.array(times, dtype=np.float64),
            codec.decode(payloads),
        )

    def _read(
        self, collection: int, *, limit: int, seed: int, up_to: int | None
    ) -> list[tuple[Any, ...]]:
        query = self.database.query
        asked = (collection, _LARGEST_ID if up_to is None else up_to)
        # Three look-ups in the index; one statement with all three would walk it instead.
        ((count, first, last),) = query(
            "SELECT (SELECT count(*) FROM examples WHERE collection = ?1 AND id <= ?2), "
            "(SELECT min(id) FROM examples WHERE collection = ?1 AND id <= ?2), "
            "(SELECT max(id) FROM examples WHERE collection = ?1 AND id <= ?2)",
            asked,
        )
        if limit >= count:
            return query(
                "SELECT id, time, payload FROM examples WHERE collection = ? AND id <= ? "
                "ORDER BY id",
                asked,
            )
        places = choose(count, limit=limit, seed=seed)
        if last - first + 1 == count:
            ids = (places + first).tolist()
        else:
            known = query(
                "SELECT id FROM examples WHERE collection = ? AND id <= ? ORDER BY id", asked
            )
            ids = [known[place][0] for place in places.tolist()]
        rows: list[tuple[Any, ...]] = []
        for start in range(0, len(ids), _CHUNK):
            chunk = ids[start : start + _CHUNK]
            marks = ",".join("?" * len(chunk))
            rows += query(
                f"SELECT id, time, payload FROM examples WHERE id IN ({marks}) ORDER BY id",  # noqa: S608
                chunk,
            )
        return rows

    def delete(self, name: str, *, ids: Iterable[int] | None = None) -> int:
        """Delete examples of a collection: those given by id, or all.

        Returns
        -------
        int
            How many there were. Ids of other collections are left alone.
        """
        number = self._find(name)[0]
        with self.database.transaction() as connection:
            if ids is None:
                return connection.execute(
                    "DELETE FROM examples WHERE collection = ?", (number,)
                ).rowcount
            return connection.executemany(
                "DELETE FROM examples WHERE collection = ? AND id = ?",
                [(number, int(i)) for i in ids],
            ).rowcount

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
        packed = [
            (table, row.key, _check_valid_from(table, row, number), _pack(table, row, number))
            for number, row in enumerate(rows)
        ]
        with self.database.transaction() as connection:
            connection.executemany(
                "INSERT INTO server_features(feature_table, key, valid_from, payload) "
                "VALUES(?, ?, ?, ?) ON CONFLICT DO UPDATE SET payload = excluded.payload",
                packed,
            )
            if cursor is not None:
                self.database.write_state(_cursor_name(table), cursor.encode())
        return len(packed)

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
        found: list[tuple[Any, ...]]
        if keys is None:
            found = self.database.query(
                "SELECT key, valid_from, payload FROM server_features WHERE feature_table = ? "
                "ORDER BY key, valid_from",
                (table,),
            )
        else:
            wanted = sorted(set(keys))
            found = []
            for start in range(0, len(wanted), _CHUNK):
                chunk = wanted[start : start + _CHUNK]
                marks = ",".join("?" * len(chunk))
                found += self.database.query(
                    "SELECT key, valid_from, payload FROM server_features "  # noqa: S608
                    f"WHERE feature_table = ? AND key IN ({marks}) ORDER BY key, valid_from",
                    (table, *chunk),
                )
        return _unpack(table, found)

    def server_features_cursor(self, table: str) -> str | None:
        """Return where downloading of a table stopped, or None before the first time."""
        value = self.database.read_state(_cursor_name(table))
        return None if value is None else value.decode()

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


def _cursor_name(table: str) -> str:
    return f"server_features_cursor/{table}"


def _check_valid_from(table: str, row: FeatureRow, number: int) -> float:
    if not math.isfinite(row.valid_from):
        raise StoreError(f"server table {table!r}, row {number}: valid_from is not finite")
    return float(row.valid_from)


def _pack(table: str, row: FeatureRow, number: int) -> bytes:
    for field, value in row.values.items():
        if value is not None and type(value) not in (str, int, float, bool):
            raise StoreError(
                f"server table {table!r}, field {field!r}, row {number}: expected a number, text, "
                f"true, false or nothing, got {type(value).__name__}"
            )
    try:
        # Missing values are written down: a field that is None is not a field that is absent.
        data = json.dumps(
            row.values, separators=(",", ":"), ensure_ascii=False, allow_nan=False
        ).encode()
    except ValueError as error:
        raise StoreError(f"server table {table!r}, row {number}: {error}") from None
    if len(data) > MAX_FEATURE_BYTES:
        raise StoreError(
            f"server table {table!r}, row {number}: expected at most {MAX_FEATURE_BYTES} bytes, "
            f"got {len(data)}"
        )
    return data


def _unpack(table: str, found: list[tuple[Any, ...]]) -> ServerFeatures:
    try:
        # One call of the parser for all rows is several times faster than one per row.
        decoded = json.loads(b"[" + b",".join(payload for _, _, payload in found) + b"]")
    except (TypeError, ValueError, RecursionError) as error:
        raise StoreError(f"server table {table!r} is damaged: {error}") from None
    if len(decoded) != len(found) or not all(type(values) is dict for values in decoded):
        raise StoreError(f"server table {table!r} is damaged: a row is not one record")
    features: dict[str, list[tuple[float, dict[str, FeatureValue]]]] = {}
    for (key, valid_from, _), values in zip(found, decoded, strict=True):
        features.setdefault(key, []).append((valid_from, values))
    return features
