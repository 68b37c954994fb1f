"""From version 1 of the store, which did not encrypt, to version 2."""

from __future__ import annotations

import secrets
from typing import Final

from pocketfl.database import COLLECTION_SCHEMA, Database
from pocketfl.store.catalog import key_context
from pocketfl.store.encryption import KEY_BYTES, RowCipher
from pocketfl.store.schema import Retention, encode_retention
from pocketfl.store.vault import KeyVault

_PAGE: Final = 1_000


def encrypt_version_1(database: Database, vault: KeyVault) -> None:
    """Encrypt every example of a store of version 1: all of them, or none.

    Collections keep all that they have: without a quota, until the app declares one. Afterwards the
    file is written anew, so that the space that it reuses holds no example in the clear.

    Raises
    ------
    StoreError
        If the disk is too full; the store is then as before.
    """
    with database.erasing():
        with database.transaction() as connection:
            # Another process may have been quicker between our look and our lock.
            if database.query("PRAGMA user_version") == [(1,)]:
                old = database.query("SELECT id, name, schema FROM collections ORDER BY id")
                connection.execute("DROP TABLE collections")
                for statement in COLLECTION_SCHEMA:
                    connection.execute(statement)
                for number, name, schema in old:
                    _encrypt_collection(database, vault, number=number, name=name, schema=schema)
            database.stamp(2)
        database.query("VACUUM")


def _encrypt_collection(
    database: Database, vault: KeyVault, *, number: int, name: str, schema: bytes
) -> None:
    key = secrets.token_bytes(KEY_BYTES)
    cipher = RowCipher(key, collection=number)
    retention = Retention(max_bytes=None)
    after = count = size = 0
    with database.transaction() as connection:
        while rows := database.query(
            "SELECT id, time, payload FROM examples WHERE collection = ? AND id > ? "
            "ORDER BY id LIMIT ?",
            (number, after, _PAGE),
        ):
            ids, times, payloads = zip(*rows, strict=True)
            sealed = cipher.seal(payloads, ids=ids, times=times)
            connection.executemany(
                "UPDATE examples SET payload = ?, size = ? WHERE id = ?",
                [(data, len(data), row) for data, row in zip(sealed, ids, strict=True)],
            )
            after = ids[-1]
            count += len(ids)
            size += sum(map(len, sealed))
        wrapped = vault.wrap(key, context=key_context(number, name))
        connection.execute(
            "INSERT INTO collections(id, name, retention, wrapped_key, examples, bytes) "
            "VALUES(?, ?, ?, ?, ?, ?)",
            (number, name, encode_retention(retention), wrapped, count, size),
        )
        connection.execute(
            "INSERT INTO collection_layouts(collection, first_id, schema) VALUES(?, 0, ?)",
            (number, schema),
        )
