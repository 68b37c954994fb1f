"""What opens a collection, kept twice: without it a page that rots would take all examples along.

Number, retention, wrapped key and layouts are two tables' rows; the copy is a third's, so that it lies
elsewhere in the file. The copy has a checksum: where the two differ, it says which one is right.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final

from pocketfl.database import Database
from pocketfl.decoding import decode_json, encode_json
from pocketfl.errors import DecodeError, StoreError
from pocketfl.store.schema import Collection, decode_retention, decode_schema

_COPIES: Final = "store.collection/"
_AFTER_COPIES: Final = "store.collection0"
_CHECK_BYTES: Final = 8
_COPY_LIMIT: Final = 64 * 2**20


@dataclass(frozen=True, kw_only=True)
class _StoredLayout:
    first_id: int
    schema: str


@dataclass(frozen=True, kw_only=True)
class _StoredDeclaration:
    number: int
    retention: str
    layouts: tuple[_StoredLayout, ...]
    wrapped_key: str | None = None


@dataclass(frozen=True, kw_only=True)
class Declaration:
    """A collection as its rows have it.

    Attributes
    ----------
    number : int
        Of the collection.
    retention : bytes
        See :func:`~pocketfl.store.schema.encode_retention`.
    wrapped_key : bytes or None
        None until there is an example.
    layouts : tuple of (int, bytes)
        From which example id on which schema holds.
    revision : int
        How often it has changed; no part of the copy.
    """

    number: int
    retention: bytes
    wrapped_key: bytes | None
    layouts: tuple[tuple[int, bytes], ...]
    revision: int = 0

    def is_typed(self) -> bool:
        """Whether everything is of its type; what the bytes say is not looked at."""
        blobs = [self.retention, *(schema for _, schema in self.layouts), self.wrapped_key or b""]
        numbers = [self.number, self.revision, *(first for first, _ in self.layouts)]
        return (
            all(isinstance(blob, bytes) for blob in blobs)
            and all(isinstance(number, int) for number in numbers)
            and bool(self.layouts)
            and self.layouts[0][0] == 0
        )

    def is_sound(self, name: str) -> bool:
        """Whether examples can be read with it."""
        if not self.is_typed():
            return False
        try:
            decode_retention(name, self.retention)
            for _, schema in self.layouts:
                Collection(name, decode_schema(name, schema).fields)
        except StoreError:
            return False
        return True

    def encode(self) -> bytes:
        """Return the bytes of the copy; of a sound declaration only."""
        body = encode_json(
            _StoredDeclaration(
                number=self.number,
                retention=self.retention.decode(),
                layouts=tuple(
                    _StoredLayout(first_id=first, schema=schema.decode())
                    for first, schema in self.layouts
                ),
                wrapped_key=None if self.wrapped_key is None else self.wrapped_key.hex(),
            )
        )
        return sha256(body).digest()[:_CHECK_BYTES] + body


def read_declaration(database: Database, name: str) -> Declaration | None:
    """Return what the tables say of a collection, sound or not; None if they have none of that name."""
    rows = database.query(
        "SELECT id, retention, wrapped_key, revision FROM collections WHERE name = ?", (name,)
    )
    if not rows:
        return None
    number, retention, wrapped_key, revision = rows[0]
    layouts = database.query(
        "SELECT first_id, schema FROM collection_layouts WHERE collection = ? ORDER BY first_id",
        (number,),
    )
    return Declaration(
        number=number,
        retention=retention,
        wrapped_key=wrapped_key,
        layouts=tuple(layouts),
        revision=revision,
    )


def read_copy(database: Database, name: str) -> bytes | None:
    """Return a collection's copy; None if an older version made the collection."""
    rows = database.query("SELECT value FROM device_state WHERE name = ?", (_COPIES + name,))
    return bytes(rows[0][0]) if rows and isinstance(rows[0][0], bytes) else None


def keep_copy(database: Database, name: str) -> None:
    """Copy what the tables say; a part of the transaction that changes them."""
    declaration = read_declaration(database, name)
    if declaration is not None:
        database.write_state(_COPIES + name, declaration.encode())


def drop_copy(database: Database, name: str) -> None:
    """Forget the copy; a part of the transaction that erases the collection."""
    database.delete_state(_COPIES + name)


def settle_declarations(database: Database) -> None:
    """Make tables and copies of a salvaged file agree, and drop the collections that neither tells.

    A sound copy is right, whatever the tables say; without one, sound rows of the tables are.
    """
    revoked = {number for (number,) in database.query("SELECT collection FROM revoked_collections")}
    copies = {
        name: copy
        for name, copy in _read_copies(database).items()
        if copy.number not in revoked and copy.is_sound(name)
    }
    with database.transaction() as connection:
        for name, copy in copies.items():
            _write_rows(database, name, copy)
        names = [name for (name,) in database.query("SELECT name FROM collections")]
        for name in names:
            declaration = read_declaration(database, name)
            if declaration is None or not declaration.is_sound(name):
                connection.execute("DELETE FROM collections WHERE name = ?", (name,))
        connection.execute(
            "DELETE FROM device_state WHERE name >= ? AND name < ?", (_COPIES, _AFTER_COPIES)
        )
        for (name,) in database.query("SELECT name FROM collections"):
            keep_copy(database, name)


def _read_copies(database: Database) -> dict[str, Declaration]:
    rows = database.query(
        "SELECT name, value FROM device_state WHERE name >= ? AND name < ?",
        (_COPIES, _AFTER_COPIES),
    )
    found = {}
    for name, value in rows:
        copy = _decode(value)
        if copy is not None:
            found[name.removeprefix(_COPIES)] = copy
    return found


def _decode(value: Any) -> Declaration | None:
    if not isinstance(value, bytes):
        return None
    check, body = value[:_CHECK_BYTES], value[_CHECK_BYTES:]
    if sha256(body).digest()[:_CHECK_BYTES] != check:
        return None
    try:
        stored = decode_json(_StoredDeclaration, body, what="a declaration", limit=_COPY_LIMIT)
        key = None if stored.wrapped_key is None else bytes.fromhex(stored.wrapped_key)
    except (DecodeError, ValueError):
        return None
    return Declaration(
        number=stored.number,
        retention=stored.retention.encode(),
        wrapped_key=key,
        layouts=tuple((layout.first_id, layout.schema.encode()) for layout in stored.layouts),
    )


def _write_rows(database: Database, name: str, declaration: Declaration) -> None:
    number = declaration.number
    with database.transaction() as connection:
        connection.execute(
            "DELETE FROM collections WHERE (name = ?) != (id = ?)",  # one of the two is garbled
            (name, number),
        )
        connection.execute(
            "INSERT INTO collections(id, name, retention, wrapped_key) VALUES(?, ?, ?, ?) "
            "ON CONFLICT(id) DO UPDATE SET retention = excluded.retention, "
            "wrapped_key = excluded.wrapped_key, revision = revision + 1",
            (number, name, declaration.retention, declaration.wrapped_key),
        )
        connection.execute("DELETE FROM collection_layouts WHERE collection = ?", (number,))
        connection.executemany(
            "INSERT INTO collection_layouts(collection, first_id, schema) VALUES(?, ?, ?)",
            [(number, first, schema) for first, schema in declaration.layouts],
        )
