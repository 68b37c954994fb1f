"""The device's stock of anonymous tokens: fetched ahead of time, each used once.

Tokens are fetched in a run of their own, at times that this device draws, so that a back end cannot
match who asked for a token with who checks in a moment later. A request that was sent is kept until it
is answered: repeated, it gets the same answer, and another one would be refused.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Final

from pocketfl.credentials.tokens import (
    TokenRequest,
    challenge,
    finish_token,
    request_token,
)
from pocketfl.database import Database, Tables
from pocketfl.errors import CredentialError, StoreError, TransportError
from pocketfl.protocol import TokenKey, TokenKeys
from pocketfl.transport import Transport

REFILL_BELOW: Final = 4
"""With fewer tokens than this for a task, more are fetched."""
REFILL_SECONDS: Final = (4 * 3600.0, 20 * 3600.0)
"""The time between two looks for more, drawn anew each time."""
MAX_KEYS: Final = 64
"""Keys taken from one answer."""

_WALLET: Final = Tables(
    name="wallet",
    steps=(
        (
            """
            CREATE TABLE anonymous_tokens(
                task TEXT NOT NULL,
                round INTEGER NOT NULL,
                key BLOB NOT NULL,
                request BLOB NOT NULL,
                input BLOB NOT NULL,
                inverse BLOB,
                token BLOB,
                PRIMARY KEY(task, round)
            ) WITHOUT ROWID
            """,
            """
            CREATE TABLE token_refills(
                task TEXT PRIMARY KEY,
                due_at REAL NOT NULL
            ) WITHOUT ROWID
            """,
        ),
    ),
)


class Wallet:
    """Fetches, keeps and spends tokens.

    Parameters
    ----------
    database : Database
        The device's file.
    transport : Transport
        The line to the back end.
    device_token : callable
        Returns the device's own token, under which tokens are signed.
    clock : callable, optional
        Unix time in seconds.
    uniform : callable, optional
        Draws the time between refills.
    """

    def __init__(
        self,
        database: Database,
        transport: Transport,
        *,
        device_token: Callable[[], str],
        clock: Callable[[], float] = time.time,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        database.ensure(_WALLET)
        self._database = database
        self._transport = transport
        self._device_token = device_token
        self._clock = clock
        self._uniform = uniform

    def count(self, task: str) -> int:
        """Return how many tokens there are for a task."""
        ((found,),) = self._database.query(
            "SELECT count(*) FROM anonymous_tokens WHERE task = ? AND token IS NOT NULL", (task,)
        )
        return int(found)

    def is_due(self, task: str) -> bool:
        """Return whether it is time to fetch tokens for a task: never fetched, or few and long ago."""
        rows = self._database.query("SELECT due_at FROM token_refills WHERE task = ?", (task,))
        if not rows:
            return True
        due_at, now = rows[0][0], self._clock()
        # A clock that was set back must not keep a device without tokens for longer than it would be.
        passed = now >= due_at or due_at - now > REFILL_SECONDS[1]
        return bool(passed) and self.count(task) < REFILL_BELOW

    def refill(self, task: str) -> int:
        """Fetch a token for each round to come that has none; returns how many came.

        Raises
        ------
        TransportError
            If the back end cannot be reached or refuses; what was fetched so far is kept.
        CredentialError
            If what it answers is not what was asked for.
        """
        keys = self._transport.token_keys(task)
        self._forget_before(keys)
        known = self._database.query(
            "SELECT round FROM anonymous_tokens WHERE task = ? AND token IS NOT NULL", (task,)
        )
        have = {row[0] for row in known}
        fetched = 0
        for key in keys.keys[:MAX_KEYS]:
            if key.round not in have:
                fetched += self._fetch(task, key)
        with self._database.transaction() as connection:
            connection.execute(
                "INSERT INTO token_refills VALUES (?, ?) "
                "ON CONFLICT(task) DO UPDATE SET due_at = excluded.due_at",
                (task, self._clock() + self._uniform(*REFILL_SECONDS)),
            )
        return fetched

    def take(self, task: str, round: int) -> bytes | None:  # noqa: A002
        """Return the token for a round and forget it, or None if there is none."""
        with self._database.transaction() as connection:
            rows = self._database.query(
                "SELECT token FROM anonymous_tokens WHERE task = ? AND round = ? AND token IS NOT NULL",
                (task, round),
            )
            connection.execute(
                "DELETE FROM anonymous_tokens WHERE task = ? AND round <= ?", (task, round)
            )
        if not rows:
            return None
        if not isinstance(rows[0][0], bytes):
            raise StoreError("an anonymous token is damaged; it was deleted")
        return rows[0][0]

    def _fetch(self, task: str, key: TokenKey) -> int:
        request = self._request(task, key)
        try:
            response = self._transport.sign_token(
                self._device_token(), task, key.round, request.data
            )
        except TransportError as error:
            # Signed for this device before, for a request that is lost: this round goes without.
            if error.code == "token_issued":
                return 0
            raise
        token = finish_token(bytes.fromhex(key.public_key), request, response)
        with self._database.transaction() as connection:
            connection.execute(
                "UPDATE anonymous_tokens SET token = ?, inverse = NULL WHERE task = ? AND round = ?",
                (token, task, key.round),
            )
        return 1

    def _request(self, task: str, key: TokenKey) -> TokenRequest:
        """Return the request that waits for its answer, or a new one that has been written down."""
        encoded = _key_bytes(key)
        rows = self._database.query(
            "SELECT key, request, input, inverse FROM anonymous_tokens "
            "WHERE task = ? AND round = ? AND token IS NULL",
            (task, key.round),
        )
        if rows and rows[0][0] == encoded:
            _, data, token_input, inverse = rows[0]
            return TokenRequest(
                data=data, token_input=token_input, inverse=int.from_bytes(inverse, "big")
            )
        made = request_token(encoded, challenge(task, key.round))
        with self._database.transaction() as connection:
            connection.execute(
                "INSERT OR REPLACE INTO anonymous_tokens VALUES (?, ?, ?, ?, ?, ?, NULL)",
                (
                    task,
                    key.round,
                    encoded,
                    made.data,
                    made.token_input,
                    made.inverse.to_bytes(256, "big"),
                ),
            )
        return made

    def _forget_before(self, keys: TokenKeys) -> None:
        if not keys.keys:
            return
        # The round before the first that is to come may be open: its token is kept.
        first = min(key.round for key in keys.keys) - 1
        with self._database.transaction() as connection:
            connection.execute(
                "DELETE FROM anonymous_tokens WHERE task = ? AND round < ?", (keys.task, first)
            )


def _key_bytes(key: TokenKey) -> bytes:
    try:
        return bytes.fromhex(key.public_key)
    except ValueError:
        raise CredentialError("a token key is no hex") from None
