"""Who may use the operator's routes: the operator key, and tokens with a name and a role."""

from __future__ import annotations

import hmac
import secrets
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

from sqlalchemy import bindparam, select
from sqlalchemy.exc import IntegrityError

from pocketfl.protocol import check_identifier
from pocketfl_server.database import Database, access_tokens
from pocketfl_server.errors import Conflict, Malformed, NotAuthenticated, NotFound
from pocketfl_server.records import AccessToken, NewAccessToken, Role

READERS: Final[frozenset[Role]] = frozenset({"viewer", "operator", "modeller", "administrator"})
"""May look at everything."""
OPERATORS: Final[frozenset[Role]] = frozenset({"operator", "administrator"})
"""Run rounds, pause tasks and store features."""
MODELLERS: Final[frozenset[Role]] = frozenset({"modeller", "administrator"})
"""Upload plans and make tasks."""
ADMINISTRATORS: Final[frozenset[Role]] = frozenset({"administrator"})
"""Give and take tokens."""

OPERATOR_KEY_NAME: Final = "operator-key"
"""What the log calls whoever has the operator key, who is an administrator."""

_INSERT = access_tokens.insert()
_ALL = select(access_tokens).order_by(access_tokens.c.name)
_BY_TOKEN = select(access_tokens.c.name, access_tokens.c.role).where(
    access_tokens.c.token_sha256 == bindparam("token")
)
_DELETE = access_tokens.delete().where(access_tokens.c.name == bindparam("whose"))


@dataclass(frozen=True, kw_only=True)
class Principal:
    """Who asks.

    Attributes
    ----------
    name : str
        Of the token.
    role : str
        What it may do.
    """

    name: str
    role: Role


class Access:
    """Knows tokens by their hashes; what a token was is known to its owner alone.

    Parameters
    ----------
    database : Database
        Where the hashes are.
    operator_key : str
        The secret of the deployment's own administrator, at least 16 characters.
    """

    def __init__(self, database: Database, *, operator_key: str) -> None:
        if len(operator_key) < 16:
            raise ValueError("the operator key needs at least 16 characters")
        self._database = database
        self._operator_key = _digest(operator_key)

    def identify(self, token: str) -> Principal:
        """Return whose token it is.

        Raises
        ------
        NotAuthenticated
            If nobody has it.
        """
        digest = _digest(token)
        if hmac.compare_digest(digest, self._operator_key):
            return Principal(name=OPERATOR_KEY_NAME, role="administrator")
        with self._database.reading() as connection:
            # Looked up by hash: how close a guess came shows in no time that it takes.
            row = connection.execute(_BY_TOKEN, {"token": digest}).first()
        if row is None:
            raise NotAuthenticated("the operator key is wrong", code="wrong_operator_key")
        return Principal(name=row.name, role=row.role)

    def create(self, name: str, role: Role, *, now: float) -> NewAccessToken:
        """Make a token; it is returned this once and cannot be read again.

        Raises
        ------
        Malformed, Conflict
            If the name is none, or has a token.
        """
        try:
            check_identifier(name, what="name")
        except ValueError as error:
            raise Malformed(str(error)) from None
        if len(name) > 64:
            raise Malformed("the name of a token has at most 64 characters")
        if name == OPERATOR_KEY_NAME:
            raise Conflict(f"{name!r} is the deployment's own key", code="name_taken")
        token = secrets.token_urlsafe(32)
        row = {"name": name, "role": role, "token_sha256": _digest(token), "created_at": now}
        try:
            with self._database.writing() as connection:
                connection.execute(_INSERT, row)
        except IntegrityError:
            raise Conflict(
                f"{name!r} has a token already; revoke it first", code="name_taken"
            ) from None
        return NewAccessToken(name=name, role=role, token=token)

    def all(self) -> tuple[AccessToken, ...]:
        """Return every token's name and role."""
        with self._database.reading() as connection:
            rows = connection.execute(_ALL).all()
        return tuple(AccessToken(name=r.name, role=r.role, created_at=r.created_at) for r in rows)

    def revoke(self, name: str) -> None:
        """Make a token worthless, from the next request on.

        Raises
        ------
        NotFound
            If nobody of that name has one.
        """
        with self._database.writing() as connection:
            if connection.execute(_DELETE, {"whose": name}).rowcount == 0:
                raise NotFound(f"nobody called {name[:64]!r} has a token", code="unknown_name")


def _digest(secret: str) -> bytes:
    return sha256(secret.encode("utf-8", "surrogatepass")).digest()
