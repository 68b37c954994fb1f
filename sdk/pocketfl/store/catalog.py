"""The collections of one store: what they are made of, and the key that opens their rows."""

from __future__ import annotations

import bisect
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

from pocketfl.database import Database
from pocketfl.errors import StoreDamagedError, StoreError
from pocketfl.store.declarations import keep_copy, read_copy, read_declaration
from pocketfl.store.encryption import KEY_BYTES, RowCipher
from pocketfl.store.rows import RowCodec
from pocketfl.store.schema import (
    Collection,
    decode_retention,
    decode_schema,
    encode_retention,
    encode_schema,
    evolve,
)
from pocketfl.store.vault import KeyVault


@dataclass(frozen=True, kw_only=True)
class CatalogEntry:
    """One collection as it was when it was last looked up.

    Attributes
    ----------
    number, revision : int
        Its number, never used again, and how often it has changed.
    collection : Collection
        Fields and retention.
    layouts : tuple of (int, RowCodec)
        From which example id on which form of a row is used.
    wrapped_key : bytes or None
        None until there is an example.
    vault : KeyVault
        Unwraps it.
    """

    number: int
    revision: int
    collection: Collection
    layouts: tuple[tuple[int, RowCodec], ...]
    wrapped_key: bytes | None
    vault: KeyVault

    @property
    def codec(self) -> RowCodec:
        """The present form of a row."""
        return self.layouts[-1][1]

    @cached_property
    def cipher(self) -> RowCipher:
        """What opens and seals the rows; made when it is first needed, as a keystore takes its time."""
        if self.wrapped_key is None:
            raise StoreError(f"collection {self.collection.name!r} has no key yet")
        key = self.vault.unwrap(
            self.wrapped_key, context=key_context(self.number, self.collection.name)
        )
        return RowCipher(key, collection=self.number)

    def decode(
        self, ids: Sequence[int], times: Sequence[float], sealed: Sequence[bytes]
    ) -> dict[str, list[Any]]:
        """Open rows whose ids rise, and return their columns; fields newer than a row are None."""
        if not ids:
            return self.codec.decode([])
        payloads = self.cipher.open(sealed, ids=ids, times=times)
        starts = [first for first, _ in self.layouts]
        if len(starts) == 1 or ids[0] >= starts[-1]:
            return self.codec.decode(payloads)
        columns: dict[str, list[Any]] = {name: [] for name in self.collection.fields}
        for place, (_, codec) in enumerate(self.layouts):
            begin = bisect.bisect_left(ids, starts[place]) if place else 0
            end = (
                bisect.bisect_left(ids, starts[place + 1]) if place + 1 < len(starts) else len(ids)
            )
            part = codec.decode(payloads[begin:end])
            nothing = [None] * (end - begin)
            for name, column in columns.items():
                column.extend(part.get(name, nothing))
        return columns

    def damaged(
        self, ids: Sequence[int], times: Sequence[float], sealed: Sequence[bytes]
    ) -> list[int]:
        """Return the ids of the rows that :meth:`decode` refuses."""
        found: list[int] = []
        for row, time, data in zip(ids, times, sealed, strict=True):
            try:
                self.decode([row], [time], [data])
            except StoreDamagedError:
                found.append(row)
        return found


class Catalog:
    """Looks collections up and remembers them, until they change.

    Parameters
    ----------
    database : Database
        The device's file.
    vault : KeyVault
        Wraps the keys of its collections.
    """

    def __init__(self, database: Database, vault: KeyVault) -> None:
        self._database = database
        self._vault = vault
        self._entries: dict[str, CatalogEntry] = {}

    def names(self) -> list[str]:
        """Return the names of all collections, sorted."""
        names = [n for (n,) in self._database.query("SELECT name FROM collections ORDER BY name")]
        if not all(isinstance(name, str) for name in names):
            raise self._database.report_damage("the name of a collection is gone")
        return names

    def has(self, name: str) -> bool:
        """Return whether there is a collection of that name."""
        return bool(self._database.query("SELECT 1 FROM collections WHERE name = ?", (name,)))

    def entry(self, name: str) -> CatalogEntry:
        """Return what was found at the last look, or look.

        Raises
        ------
        StoreError
            If there is no such collection.
        """
        return self._entries.get(name) or self._load(name)

    def current(self, name: str) -> tuple[CatalogEntry, int, int]:
        """Return a collection as it is now, with its number of examples and bytes.

        Within a transaction or snapshot this stays so: another process may add a field or revoke a
        collection at any time.

        Raises
        ------
        StoreError
            If there is no such collection.
        """
        found = self.find(name)
        if found is None:
            raise self.missing(name)
        return found

    def find(self, name: str) -> tuple[CatalogEntry, int, int] | None:
        """Return what :meth:`current` does, or None if there is no such collection."""
        rows = self._database.query(
            "SELECT id, revision, examples, bytes FROM collections WHERE name = ?", (name,)
        )
        if not rows:
            return None
        number, revision, examples, size = rows[0]
        if not isinstance(examples, int) or not isinstance(size, int):
            raise self._database.report_damage(f"the totals of collection {name!r} are gone")
        entry = self._entries.get(name)
        if entry is None or (entry.number, entry.revision) != (number, revision):
            entry = self._load(name)
        return entry, examples, size

    def forget(self, name: str) -> None:
        """Look again next time."""
        self._entries.pop(name, None)

    def _load(self, name: str) -> CatalogEntry:
        with self._database.snapshot():
            declaration = read_declaration(self._database, name)
            if declaration is None:
                raise self.missing(name)
            copy = read_copy(self._database, name)
        garbled = f"collection {name!r} is not what was declared"
        if not declaration.is_typed():
            raise self._database.report_damage(garbled)
        layouts = declaration.layouts
        try:
            entry = CatalogEntry(
                number=declaration.number,
                revision=declaration.revision,
                collection=_decode_collection(name, layouts[-1][1], declaration.retention),
                layouts=tuple((first, _codec(name, schema)) for first, schema in layouts),
                wrapped_key=declaration.wrapped_key,
                vault=self._vault,
            )
        except StoreError as error:
            raise self._database.report_damage(str(error)) from None
        # What was made by an older version has no copy until it is declared again.
        if copy not in (None, declaration.encode()):
            raise self._database.report_damage(garbled)
        self._entries[name] = entry
        return entry

    def missing(self, name: str) -> StoreError:
        """Return the error that says that there is no such collection, and which there are."""
        self.forget(name)
        return StoreError(
            f"no collection {name!r} in {self._database.path} (it has: "
            f"{', '.join(self.names()) or 'none'}); create_collection() makes one"
        )

    def declare(self, collection: Collection) -> None:
        """Make a collection, or let an existing one take what is declared now.

        Raises
        ------
        StoreError
            If it exists and cannot take it.
        """
        name = collection.name
        with self._database.transaction() as connection:
            if not connection.execute(
                "SELECT 1 FROM collections WHERE name = ?", (name,)
            ).fetchone():
                if read_copy(self._database, name) is not None:
                    raise self._database.report_damage(f"collection {name!r} is gone")
                number = connection.execute(
                    "INSERT INTO collections(name, retention) VALUES(?, ?)",
                    (name, encode_retention(collection.retention)),
                ).lastrowid
                connection.execute(
                    "INSERT INTO collection_layouts(collection, first_id, schema) VALUES(?, 0, ?)",
                    (number, encode_schema(collection)),
                )
                keep_copy(self._database, name)
                return
            entry, _, _ = self.current(name)
            changed = evolve(entry.collection, collection)
            if changed is None:
                if read_copy(self._database, name) is None:
                    keep_copy(self._database, name)
                return
            if changed.fields != entry.collection.fields:
                # A second change before the next example takes the place of the first.
                connection.execute(
                    "INSERT INTO collection_layouts(collection, first_id, schema) VALUES(?, ?, ?) "
                    "ON CONFLICT DO UPDATE SET schema = excluded.schema",
                    (entry.number, next_example_id(self._database), encode_schema(changed)),
                )
            if changed.retention != entry.collection.retention:
                connection.execute(
                    "UPDATE examples SET expires_at = created_at + ? WHERE collection = ?",
                    (changed.retention.max_age_seconds, entry.number),
                )
            connection.execute(
                "UPDATE collections SET retention = ?, revision = revision + 1 WHERE id = ?",
                (encode_retention(changed.retention), entry.number),
            )
            keep_copy(self._database, name)
        self.forget(name)

    def with_key(self, entry: CatalogEntry) -> CatalogEntry:
        """Give a collection its key, if it has none; within a transaction."""
        if entry.wrapped_key is not None:
            return entry
        name = entry.collection.name
        wrapped = self._vault.wrap(
            secrets.token_bytes(KEY_BYTES), context=key_context(entry.number, name)
        )
        with self._database.transaction() as connection:
            connection.execute(
                "UPDATE collections SET wrapped_key = ?, revision = revision + 1 WHERE id = ?",
                (wrapped, entry.number),
            )
            keep_copy(self._database, name)
            entry = self._load(name)
        # The caller's transaction may still fail, and another process make another key of the same
        # revision: what was made here is used here, and looked up again the next time.
        self.forget(name)
        return entry


# A fleet in one process has thousands of stores of few schemas; what is made of them never changes.
@lru_cache(maxsize=128)
def _decode_collection(name: str, schema: bytes, retention: bytes) -> Collection:
    return Collection(name, decode_schema(name, schema).fields, decode_retention(name, retention))


@lru_cache(maxsize=128)
def _codec(name: str, schema: bytes) -> RowCodec:
    return RowCodec(decode_schema(name, schema))


def key_context(number: int, name: str) -> bytes:
    """Return what a collection's wrapped key is bound to."""
    return f"pocketfl collection key/{number}/{name}".encode()


def next_example_id(database: Database) -> int:
    """Return the id of the next example; within a transaction."""
    rows = database.query("SELECT seq FROM sqlite_sequence WHERE name = 'examples'")
    return int(rows[0][0]) + 1 if rows else 1
