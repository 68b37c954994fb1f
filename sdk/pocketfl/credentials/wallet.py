"""The device's stock of anonymous tokens: fetched ahead of time, each used once.

Tokens are fetched in a run of their own, at times that this device draws, so that a back end cannot
match who asked for a token with who checks in a moment later. A request that was sent is kept until it
is answered: repeated, it gets the same answer, and another one would be refused.

Where a token is for an epoch of several rounds, or two tokens have to lie apart, a device that begins
draws which of the next epochs it begins with: otherwise all those that were installed on a day would
have tokens for the same epochs, and none for those between.
"""

from __future__ import annotations

import random
import secrets
import time
from collections.abc import Callable
from typing import Final

from pocketfl.credentials.directory import KeyDirectory
from pocketfl.credentials.tokens import (
    TokenRequest,
    challenge,
    finish_token,
    request_token,
)
from pocketfl.database import Database, Tables
from pocketfl.errors import (
    AggregatorRefusedError,
    CredentialError,
    KeyConsistencyError,
    StoreError,
    TransportError,
)
from pocketfl.protocol import TokenKey, TokenKeys
from pocketfl.transport import Transport

REFILL_BELOW: Final = 4
"""With fewer tokens than this for a task, more are fetched."""
REFILL_SECONDS: Final = (4 * 3600.0, 20 * 3600.0)
"""The time between two looks for more, drawn anew each time."""
MAX_KEYS: Final = 64
"""Keys taken from one answer."""

_USABLE: Final = "task = ? AND ? BETWEEN round AND last_round AND token IS NOT NULL AND NOT shown"

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
        # Epochs: `round` is their first. A token that was shown is not shown again unless it came back.
        (
            "ALTER TABLE anonymous_tokens ADD COLUMN last_round INTEGER NOT NULL DEFAULT 0",
            "UPDATE anonymous_tokens SET last_round = round",
            "ALTER TABLE anonymous_tokens ADD COLUMN shown INTEGER NOT NULL DEFAULT 0",
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
    directory : KeyDirectory
        Judges the keys that the back end shows.
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
        directory: KeyDirectory,
        device_token: Callable[[], str],
        clock: Callable[[], float] = time.time,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        database.ensure(_WALLET)
        self._database = database
        self._transport = transport
        self._directory = directory
        self._device_token = device_token
        self._clock = clock
        self._uniform = uniform

    def count(self, task: str) -> int:
        """Return how many tokens there are for a task."""
        ((found,),) = self._database.query(
            "SELECT count(*) FROM anonymous_tokens "
            "WHERE task = ? AND token IS NOT NULL AND NOT shown",
            (task,),
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
        """Fetch the tokens for epochs to come that this device may have; returns how many came.

        Raises
        ------
        TransportError
            If the back end cannot be reached or refuses; what was fetched so far is kept.
        CredentialError
            If what it answers is not what was asked for.
        KeyConsistencyError
            If it shows other keys than before.
        AggregatorRefusedError
            If no trusted tier vouches for its keys.
        """
        try:
            keys = self._look(task)
        except (KeyConsistencyError, AggregatorRefusedError):
            # Not at once again: other tasks would never have their turn.
            self._schedule(task)
            raise
        self._forget_before(keys)
        fetched = sum(self._fetch(task, key) for key in self._choose(keys))
        self._schedule(task)
        return fetched

    def _schedule(self, task: str) -> None:
        with self._database.transaction() as connection:
            connection.execute(
                "INSERT INTO token_refills VALUES (?, ?) "
                "ON CONFLICT(task) DO UPDATE SET due_at = excluded.due_at",
                (task, self._clock() + self._uniform(*REFILL_SECONDS)),
            )

    def _choose(self, keys: TokenKeys) -> list[TokenKey]:
        """Return the keys of epochs that are far enough from each other and from those of before."""
        offered = [key for key in keys.keys[:MAX_KEYS] if key.first_round >= keys.next_round]
        rows = self._database.query(
            "SELECT round, last_round, token IS NOT NULL FROM anonymous_tokens WHERE task = ?",
            (keys.task,),
        )
        own = [(row[0], row[1]) for row in rows]
        have = {row[0] for row in rows if row[2]}
        if offered and not own:
            reach = offered[0].last_round + keys.separation
            offered = offered[secrets.randbelow(sum(k.first_round < reach for k in offered)) :]
        chosen = []
        for key in offered:
            epoch = (key.first_round, key.last_round)
            if epoch not in own:
                if not all(
                    epoch[0] - last >= keys.separation or first - epoch[1] >= keys.separation
                    for first, last in own
                ):
                    continue
                own.append(epoch)
            if key.first_round not in have:
                chosen.append(key)
        return chosen

    def _look(self, task: str) -> TokenKeys:
        keys = self._transport.token_keys(task)
        self._directory.check(keys)
        return keys

    def check(self, task: str, round: int, *, policy_hash: str) -> str | None:  # noqa: A002
        """Look again whether the key of a round's token is the one that everybody sees.

        Nobody knows who looks. What is wrong now is found before the token is shown.

        Parameters
        ----------
        task, round
            To check in to.
        policy_hash : str
            Of the task's plan.

        Returns
        -------
        str or None
            Id of the trusted tier's key that vouches for it; None if there is no token.

        Raises
        ------
        TransportError
            If the back end cannot be reached.
        KeyConsistencyError, AggregatorRefusedError
            As for :meth:`refill`; the token is kept.
        """
        rows = self._database.query(
            f"SELECT key FROM anonymous_tokens WHERE {_USABLE}",  # noqa: S608
            (task, round),
        )
        if not rows:
            return None
        keys = self._look(task)
        if keys.policy_hash != policy_hash:
            raise KeyConsistencyError("the token keys are vouched for under another policy")
        shown = [k for k in keys.keys if k.first_round <= round <= k.last_round]
        if not shown or _key_bytes(shown[0]) != rows[0][0]:
            raise KeyConsistencyError(
                f"the key of this device's token for round {round} is not the one that is shown now"
            )
        return keys.aggregator.key_id

    def take(self, task: str, round: int) -> bytes | None:  # noqa: A002
        """Return the token for a round and count it as spent, or None if there is none.

        A device that is turned away gives it back with :meth:`put_back`.
        """
        with self._database.transaction() as connection:
            rows = self._database.query(
                f"SELECT round, token FROM anonymous_tokens WHERE {_USABLE}",  # noqa: S608
                (task, round),
            )
            if not rows:
                return None
            connection.execute(
                "UPDATE anonymous_tokens SET shown = 1 WHERE task = ? AND round = ?",
                (task, rows[0][0]),
            )
        if not isinstance(rows[0][1], bytes):
            raise StoreError("an anonymous token is damaged; it is not used")
        return rows[0][1]

    def put_back(self, task: str, round: int) -> None:  # noqa: A002
        """Have the token for a round again: it was shown and gave no place."""
        with self._database.transaction() as connection:
            connection.execute(
                "UPDATE anonymous_tokens SET shown = 0 "
                "WHERE task = ? AND ? BETWEEN round AND last_round",
                (task, round),
            )

    def _fetch(self, task: str, key: TokenKey) -> int:
        request = self._request(task, key)
        try:
            response = self._transport.sign_token(
                self._device_token(), task, key.first_round, request.data
            )
        except TransportError as error:
            # Signed for this device before, for a request that is lost: this epoch goes without.
            if error.code in ("token_issued", "token_too_soon"):
                return 0
            raise
        token = finish_token(bytes.fromhex(key.public_key), request, response)
        with self._database.transaction() as connection:
            connection.execute(
                "UPDATE anonymous_tokens SET token = ?, inverse = NULL WHERE task = ? AND round = ?",
                (token, task, key.first_round),
            )
        return 1

    def _request(self, task: str, key: TokenKey) -> TokenRequest:
        """Return the request that waits for its answer, or a new one that has been written down."""
        encoded = _key_bytes(key)
        rows = self._database.query(
            "SELECT key, request, input, inverse FROM anonymous_tokens "
            "WHERE task = ? AND round = ? AND last_round = ? AND token IS NULL",
            (task, key.first_round, key.last_round),
        )
        if rows and rows[0][0] == encoded:
            _, data, token_input, inverse = rows[0]
            return TokenRequest(
                data=data, token_input=token_input, inverse=int.from_bytes(inverse, "big")
            )
        made = request_token(encoded, challenge(task, key.first_round, key.last_round))
        with self._database.transaction() as connection:
            connection.execute(
                "INSERT OR REPLACE INTO anonymous_tokens"
                "(task, round, last_round, key, request, input, inverse) VALUES (?, ?, ?, ?, ?, ?, ?)",
                (
                    task,
                    key.first_round,
                    key.last_round,
                    encoded,
                    made.data,
                    made.token_input,
                    made.inverse.to_bytes(256, "big"),
                ),
            )
        return made

    def _forget_before(self, keys: TokenKeys) -> None:
        """Forget tokens of epochs that are over, once none for a round to come could be too near."""
        # The round before the next one may be open: its token is kept.
        with self._database.transaction() as connection:
            connection.execute(
                "DELETE FROM anonymous_tokens WHERE task = ? AND last_round < ?",
                (keys.task, keys.next_round - max(1, keys.separation - 1)),
            )


def _key_bytes(key: TokenKey) -> bytes:
    try:
        return bytes.fromhex(key.public_key)
    except ValueError:
        raise CredentialError("a token key is no hex") from None
