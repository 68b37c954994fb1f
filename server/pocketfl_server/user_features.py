"""Server-side features: what the back end knows about a user, for that user's devices to join.

Rows live per user and table, by key and the time from which they hold. A row is kept as the JSON that
devices receive. Each change gets the next number of its user's table, so a device that has seen
everything up to a number (its cursor) asks only for what came later.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, bindparam, func, select
from sqlalchemy.exc import IntegrityError

from pocketfl.decoding import decode, decode_json, parse_json
from pocketfl.protocol import FEATURES_LIMIT, FeaturePage, FeatureRow, check_identifier
from pocketfl_server.database import Database, user_features
from pocketfl_server.enrolment import MAX_USER_CHARACTERS, check_text
from pocketfl_server.errors import Conflict, Malformed
from pocketfl_server.records import PutFeatures

PAGE_ROWS: Final = 5_000
PAGE_BYTES: Final = 8 * 2**20
MAX_KEY_CHARACTERS: Final = 256
MAX_ROW_BYTES: Final = 64 * 2**10
MAX_FIELDS: Final = 512

# Rows come by the hundred thousand, so they skip the general encoder of records.
_to_json: Final = json.JSONEncoder(
    sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
).encode
_ROW_FIELDS: Final = {"key", "valid_from", "values"}
_SCALARS: Final = frozenset({str, int, float, bool, type(None)})

_CURSOR = re.compile(r"[0-9]{1,18}\Z")
_PAGE = (
    select(user_features.c.sequence, user_features.c.payload)
    .where(
        user_features.c.user == bindparam("user"),
        user_features.c.table == bindparam("table"),
        user_features.c.sequence > bindparam("after"),
    )
    .order_by(user_features.c.sequence)
    .limit(PAGE_ROWS + 1)
)
_LAST = select(func.coalesce(func.max(user_features.c.sequence), 0)).where(
    user_features.c.user == bindparam("user"), user_features.c.table == bindparam("table")
)


@dataclass(frozen=True, kw_only=True)
class EncodedPage:
    """A page whose rows are still the JSON that was stored."""

    table: str
    rows: tuple[bytes, ...]
    next_cursor: str | None

    def to_json(self) -> bytes:
        """Return the JSON of a :class:`~pocketfl.protocol.FeaturePage`."""
        following = (
            b""
            if self.next_cursor is None
            else b'"next_cursor":"%s",' % (self.next_cursor.encode())
        )
        # A table's name needs no escaping: check_identifier allows none of what JSON escapes.
        return b'{%s"rows":[%s],"table":"%s"}' % (
            following,
            b",".join(self.rows),
            self.table.encode(),
        )

    def decode(self) -> FeaturePage:
        """Return the page as a record."""
        rows = tuple(
            decode_json(FeatureRow, row, what="feature row", limit=MAX_ROW_BYTES)
            for row in self.rows
        )
        return FeaturePage(table=self.table, rows=rows, next_cursor=self.next_cursor)


class UserFeatures:
    """Keeps rows and pages through them.

    Parameters
    ----------
    database : Database
        Where they are kept.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        insert = database.insert(user_features)
        self._upsert = insert.on_conflict_do_update(
            index_elements=list(user_features.primary_key.columns),
            set_={
                "sequence": insert.excluded.sequence,
                "payload": insert.excluded.payload,
            },
        )

    def put(self, table: str, rows_of_users: Mapping[str, Iterable[FeatureRow]]) -> int:
        """Add rows, or replace those with the same key and time; all of them or none.

        Parameters
        ----------
        table : str
            Name of the table.
        rows_of_users : mapping of str to rows
            By user.

        Returns
        -------
        int
            Number of rows stored.

        Raises
        ------
        Malformed
            If a name, key or value is out of bounds.
        Conflict
            If somebody else wrote to the same user's table at the same time.
        """
        _check_table(table)
        prepared = {
            _check_user(user): [_encode(row) for row in rows]
            for user, rows in rows_of_users.items()
        }
        try:
            with self._database.writing() as connection:
                for user, rows in prepared.items():
                    self._put_user(connection, user, table, rows)
        except IntegrityError:
            raise Conflict(
                f"the table {table!r} of a user was written to at the same time; try again",
                code="concurrent_write",
            ) from None
        return sum(map(len, prepared.values()))

    def page(
        self, connection: Connection, user: str, table: str, cursor: str | None
    ) -> EncodedPage:
        """Return a user's rows after a cursor; a table that the user does not have is empty.

        Raises
        ------
        Malformed
            If the table's name or the cursor is not one that we give out.
        """
        _check_table(table)
        if cursor is not None and not _CURSOR.match(cursor):
            raise Malformed("the cursor is none that a page gave out", code="bad_cursor")
        after = int(cursor or 0)
        found = connection.execute(_PAGE, {"user": user, "table": table, "after": after}).all()
        rows: list[bytes] = []
        size = 0
        for row in found[:PAGE_ROWS]:
            payload = bytes(row.payload)
            if rows and size + len(payload) > PAGE_BYTES:
                break
            rows.append(payload)
            size += len(payload)
        more = len(rows) < len(found)
        return EncodedPage(
            table=table,
            rows=tuple(rows),
            next_cursor=str(found[len(rows) - 1].sequence) if more else None,
        )

    def _put_user(
        self, connection: Connection, user: str, table: str, rows: list[dict[str, Any]]
    ) -> None:
        if not rows:
            return
        last = int(connection.execute(_LAST, {"user": user, "table": table}).scalar_one())
        connection.execute(
            self._upsert,
            [
                {**row, "user": user, "table": table, "sequence": last + position}
                for position, row in enumerate(rows, start=1)
            ],
        )


def encode_put(rows_of_users: Mapping[str, Iterable[FeatureRow]]) -> bytes:
    """Return the JSON of a :class:`~pocketfl_server.records.PutFeatures`."""
    users = [
        {"user": user, "rows": [vars(row) for row in rows]} for user, rows in rows_of_users.items()
    ]
    return _to_json({"users": users}).encode()


def decode_put(body: bytes) -> dict[str, list[FeatureRow]]:
    """Read what :func:`encode_put` made, as strictly as every record is read.

    Raises
    ------
    DecodeError
        Naming the place that is not as it should be.
    Malformed
        If a user is named twice.
    """
    value = parse_json(body, what="body", limit=FEATURES_LIMIT)
    users = value.get("users") if type(value) is dict else None
    rows: list[list[object]] = []
    if type(users) is list and all(type(u) is dict and type(u.get("rows")) is list for u in users):
        rows = [user["rows"] for user in users]
        value = {**value, "users": [{**user, "rows": []} for user in users]}
    # All but the rows; or everything, to say what is wrong with it.
    frame = decode(PutFeatures, value, what="body")
    rows_of_users: dict[str, list[FeatureRow]] = {}
    for index, (user, given) in enumerate(zip(frame.users, rows, strict=True)):
        if user.user in rows_of_users:
            raise Malformed(f"the user {user.user[:60]!r} is named twice")
        rows_of_users[user.user] = [
            _row(row, what=f"body.users[{index}].rows[{position}]")
            for position, row in enumerate(given)
        ]
    return rows_of_users


def _row(value: Any, *, what: str) -> FeatureRow:
    plain = (
        type(value) is dict
        and value.keys() == _ROW_FIELDS
        and type(value["key"]) is str
        and type(value["valid_from"]) is float
        and type(value["values"]) is dict
        and all(type(item) in _SCALARS for item in value["values"].values())
    )
    # The general decoder knows what is wrong with a row that is not as most are.
    return FeatureRow(**value) if plain else decode(FeatureRow, value, what=what)


def _check_table(table: str) -> None:
    try:
        check_identifier(table, what="table")
    except ValueError as error:
        raise Malformed(str(error)) from None


def _check_user(user: str) -> str:
    return check_text(user, what="user", limit=MAX_USER_CHARACTERS)


def _encode(row: FeatureRow) -> dict[str, Any]:
    key = check_text(row.key, what="feature key", limit=MAX_KEY_CHARACTERS)
    if len(row.values) > MAX_FIELDS:
        raise Malformed(
            f"the row of key {key!r} has {len(row.values)} fields; {MAX_FIELDS} at most"
        )
    for value in (row.valid_from, *row.values.values()):
        if isinstance(value, float) and not math.isfinite(value):
            raise Malformed(f"the row of key {key!r} has a number that is not finite")
        if isinstance(value, int) and not -(2**63) <= value < 2**63:
            raise Malformed(f"the row of key {key!r} has a whole number beyond 64 bits")
    fields = {"key": key, "valid_from": row.valid_from, "values": row.values}
    try:
        payload = _to_json(fields).encode()
    except UnicodeEncodeError:
        raise Malformed(f"the row of key {key!r} has text that is not valid Unicode") from None
    if len(payload) > MAX_ROW_BYTES:
        raise Malformed(f"the row of key {key!r} has {len(payload)} bytes; {MAX_ROW_BYTES} at most")
    return {"key": key, "valid_from": float(row.valid_from), "payload": payload}
