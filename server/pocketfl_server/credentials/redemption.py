"""Recognises anonymous tokens at check-in, and takes each once in its epoch."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from typing import Final

from sqlalchemy import Connection, bindparam, select

from pocketfl.credentials.tokens import challenge, verify_token
from pocketfl.errors import CredentialError
from pocketfl.protocol import TokenKey
from pocketfl_server.credentials.issuer import key_of
from pocketfl_server.database import Database, spent_tokens, token_keys
from pocketfl_server.errors import NotAuthenticated

_MAX_REMEMBERED: Final = 1024
_KEY_OF_ROUND = select(
    token_keys.c.first_round, token_keys.c.last_round, token_keys.c.public_key
).where(
    token_keys.c.task == bindparam("task"),
    token_keys.c.first_round <= bindparam("number"),
    token_keys.c.last_round >= bindparam("number"),
)


@dataclass(frozen=True, kw_only=True)
class Redeemed:
    """A token that is good for a round; whether it was spent before is another question.

    Attributes
    ----------
    task : str
        Of the token.
    stands_for : bytes
        Instead of a device: a hash of the token's nonce.
    last_round : int
        Of its epoch.
    """

    task: str
    stands_for: bytes
    last_round: int


class Redemption:
    """Checks tokens and remembers which were spent.

    Parameters
    ----------
    database : Database
        Keeps keys, and hashes of spent tokens until their epoch is over.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._keys: dict[tuple[str, int], TokenKey] = {}
        self._spend = database.prepare(database.insert_or_ignore(spent_tokens))

    def check(self, token: bytes, task: str, number: int) -> Redeemed:
        """Check a token for a round.

        Raises
        ------
        NotAuthenticated
            With code ``wrong_token`` if it is not a token for an epoch with this round.
        """
        key = self._key(task, number)
        try:
            nonce = verify_token(
                token,
                bytes.fromhex(key.public_key),
                challenge(task, key.first_round, key.last_round),
            )
        except CredentialError as error:
            raise NotAuthenticated(
                f"{error}; round {number} takes tokens for rounds {key.first_round} to "
                f"{key.last_round}",
                code="wrong_token",
            ) from None
        return Redeemed(
            task=task,
            stands_for=sha256(b"anonymous token" + nonce).digest(),
            last_round=key.last_round,
        )

    def spend(self, connection: Connection, redeemed: Redeemed) -> bool:
        """Mark a token as spent for its whole epoch; False if it was before."""
        spent = {
            "task": redeemed.task,
            "token": redeemed.stands_for,
            "last_round": redeemed.last_round,
        }
        return self._spend.count(connection, spent) == 1

    def _key(self, task: str, number: int) -> TokenKey:
        key = self._keys.get((task, number))
        if key is None:
            with self._database.reading() as connection:
                row = connection.execute(_KEY_OF_ROUND, {"task": task, "number": number}).first()
            if row is None:
                raise NotAuthenticated("there are no tokens for this round", code="wrong_token")
            key = key_of(row)
            if len(self._keys) >= _MAX_REMEMBERED:
                self._keys.clear()
            self._keys[task, number] = key
        return key
