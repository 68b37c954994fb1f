"""Server-side features of the user, downloaded and kept by table, key and time.

They are not encrypted: the back end has them anyway. Which keys are here may still say something about
the user's examples, so the docs list the columns.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection as AbstractCollection
from collections.abc import Iterable, Mapping
from typing import Any, Final, TypeAlias

from pocketfl.database import Database
from pocketfl.errors import StoreError
from pocketfl.protocol import FeatureRow

FeatureValue: TypeAlias = str | int | float | bool | None
ServerFeatures: TypeAlias = Mapping[str, list[tuple[float, dict[str, FeatureValue]]]]
"""By key: rows of ``(valid_from, values)`` with rising ``valid_from``."""

MAX_FEATURE_BYTES: Final = 64 * 2**10
"""Largest row of server-side features in bytes of JSON."""

_CHUNK: Final = 500
"""Keys per statement: old SQLite builds on phones take 999 parameters at most."""


def put_server_features(
    database: Database, table: str, rows: Iterable[FeatureRow], *, cursor: str | None = None
) -> int:
    """Keep server-side features; a row of the same key and time replaces the older one.

    Parameters
    ----------
    database : Database
        The device's file.
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
    with database.transaction() as connection:
        connection.executemany(
            "INSERT INTO server_features(feature_table, key, valid_from, payload) "
            "VALUES(?, ?, ?, ?) ON CONFLICT DO UPDATE SET payload = excluded.payload",
            packed,
        )
        if cursor is not None:
            database.write_state(_cursor_name(table), cursor.encode())
    return len(packed)


def server_features(
    database: Database, table: str, *, keys: AbstractCollection[str] | None = None
) -> ServerFeatures:
    """Return rows of server-side features by key.

    Parameters
    ----------
    database : Database
        The device's file.
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
        found = database.query(
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
            found += database.query(
                "SELECT key, valid_from, payload FROM server_features "  # noqa: S608
                f"WHERE feature_table = ? AND key IN ({marks}) ORDER BY key, valid_from",
                (table, *chunk),
            )
    return _unpack(table, found)


def server_features_cursor(database: Database, table: str) -> str | None:
    """Return where downloading of a table stopped, or None before the first time."""
    value = database.read_state(_cursor_name(table))
    return None if value is None else value.decode()


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
