"""Signs one token per device and round, unseen, and recognises them at check-in.

There is a key for each task and round. Keys are announced for rounds that are still to come, the same
to everybody, so that devices can ask for tokens at times that have nothing to do with their check-ins.
How often a device takes part is limited here, where the device is known, and nowhere later.
"""

from __future__ import annotations

import hmac
import threading
from hashlib import sha256
from typing import Final

from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_der_private_key,
)
from sqlalchemy import Connection, bindparam, func, select

from pocketfl.credentials.tokens import challenge, encode_key, read_request, verify_token
from pocketfl.errors import CredentialError
from pocketfl.protocol import TokenKey, TokenKeys
from pocketfl_server.credentials.signing import blind_sign
from pocketfl_server.database import Database, issued_tokens, rounds, token_keys
from pocketfl_server.enrolment import Enrolments
from pocketfl_server.errors import Conflict, Malformed, NotAuthenticated, NotFound
from pocketfl_server.tasks import Tasks

AHEAD: Final = 8
"""For how many rounds after the latest one tokens are to be had."""

_LATEST = select(func.coalesce(func.max(rounds.c.number), 0)).where(
    rounds.c.task == bindparam("task")
)
_KEYS = (
    select(token_keys.c.round, token_keys.c.public_key)
    .where(token_keys.c.task == bindparam("task"), token_keys.c.round > bindparam("after"))
    .order_by(token_keys.c.round)
)
_KEY = select(token_keys.c.public_key, token_keys.c.private_key).where(
    token_keys.c.task == bindparam("task"), token_keys.c.round == bindparam("round")
)
_ISSUED = select(issued_tokens.c.request_sha256).where(
    issued_tokens.c.task == bindparam("task"),
    issued_tokens.c.round == bindparam("round"),
    issued_tokens.c.device == bindparam("device"),
)
_FORGET_KEYS = token_keys.delete().where(
    token_keys.c.task == bindparam("its_task"), token_keys.c.round < bindparam("before")
)
_FORGET_ISSUED = issued_tokens.delete().where(
    issued_tokens.c.task == bindparam("its_task"), issued_tokens.c.round < bindparam("before")
)


class TokenIssuer:
    """Keys by task and round, and what was signed with them.

    Parameters
    ----------
    database : Database
        Keeps keys, and which device has had its token; never a token.
    tasks : Tasks
        Knows which tasks there are.
    enrolments : Enrolments
        Knows devices.
    """

    def __init__(self, database: Database, task_list: Tasks, enrolments: Enrolments) -> None:
        self._database = database
        self._tasks = task_list
        self._enrolments = enrolments
        self._making = threading.Lock()
        self._public: dict[tuple[str, int], bytes] = {}
        insert = database.insert
        self._add_key = insert(token_keys).on_conflict_do_nothing()
        self._add_issued = insert(issued_tokens).on_conflict_do_nothing()

    def keys(self, task: str) -> TokenKeys:
        """Return the keys of the next rounds, making those that are missing.

        Raises
        ------
        NotFound
            With code ``unknown_task``.
        """
        self._tasks.get(task)
        with self._database.reading() as connection:
            latest = int(connection.execute(_LATEST, {"task": task}).scalar_one())
            known = self._known(connection, task, latest)
        wanted = range(latest + 1, latest + AHEAD + 1)
        if any(number not in known for number in wanted):
            known = self._make(task, latest, wanted)
        keys = tuple(TokenKey(round=n, public_key=known[n].hex()) for n in wanted)
        return TokenKeys(task=task, keys=keys)

    def _known(self, connection: Connection, task: str, after: int) -> dict[int, bytes]:
        rows = connection.execute(_KEYS, {"task": task, "after": after})
        return {int(row.round): bytes(row.public_key) for row in rows}

    def _make(self, task: str, latest: int, wanted: range) -> dict[int, bytes]:
        # Making a key takes a tenth of a second, so one thread makes them and the others wait for it.
        with self._making:
            with self._database.reading() as connection:
                known = self._known(connection, task, latest)
            made = []
            for number in wanted:
                if number in known:
                    continue
                key = rsa.generate_private_key(65537, 2048)
                made.append(
                    {
                        "task": task,
                        "round": number,
                        "public_key": encode_key(key.public_key()),
                        "private_key": key.private_bytes(
                            Encoding.DER, PrivateFormat.PKCS8, NoEncryption()
                        ),
                    }
                )
            with self._database.writing() as connection:
                if made:
                    connection.execute(self._add_key, made)
                # Nobody checks in to rounds before the latest one any more.
                old = {"its_task": task, "before": latest}
                connection.execute(_FORGET_KEYS, old)
                connection.execute(_FORGET_ISSUED, old)
                # Another gateway may have been quicker: what is on record is what counts.
                return self._known(connection, task, latest)

    def issue(self, token: str, task: str, number: int, request: bytes) -> bytes:
        """Sign a device's blinded token for a round; the same request again gets the same answer.

        Parameters
        ----------
        token : str
            The device's own token: here it is known who asks, and not for what.
        task, number
            A round that is still to come.
        request : bytes
            A token request of RFC 9578.

        Raises
        ------
        NotAuthenticated
            If no device has the token.
        NotFound
            With code ``no_token_key`` if tokens for this round are not to be had.
        Conflict
            With code ``token_issued`` if the device has had one for this round.
        Malformed
            If the request is none.
        """
        with self._database.reading() as connection:
            device = self._enrolments.authenticate(connection, token).device
            latest = int(connection.execute(_LATEST, {"task": task}).scalar_one())
            row = connection.execute(_KEY, {"task": task, "round": number}).first()
        if row is None or number <= latest:
            raise NotFound(
                f"tokens for round {number} are not to be had; see the token keys of the task",
                code="no_token_key",
            )
        try:
            blinded = read_request(request, bytes(row.public_key))
            private = load_der_private_key(bytes(row.private_key), password=None)
            if not isinstance(private, rsa.RSAPrivateKey):
                raise CredentialError("the key of this round is damaged")
            response = blind_sign(private, blinded)
        except CredentialError as error:
            raise Malformed(str(error), code="token_request") from None
        digest = sha256(request).digest()
        issued = {"task": task, "round": number, "device": device, "request_sha256": digest}
        with self._database.writing() as connection:
            connection.execute(self._add_issued, issued)
            first = connection.execute(_ISSUED, issued).scalar_one()
        if not hmac.compare_digest(bytes(first), digest):
            raise Conflict(f"this device has had its token for round {number}", code="token_issued")
        return response

    def redeem(self, token: bytes, task: str, number: int) -> bytes:
        """Return what stands for a token in the list of those that checked in: a hash of its nonce.

        Raises
        ------
        NotAuthenticated
            With code ``wrong_token`` if it is not a token for this round.
        """
        key = self._public.get((task, number))
        if key is None:
            with self._database.reading() as connection:
                row = connection.execute(_KEY, {"task": task, "round": number}).first()
            if row is None:
                raise NotAuthenticated("there are no tokens for this round", code="wrong_token")
            key = bytes(row.public_key)
            if len(self._public) >= 1024:
                self._public.clear()
            self._public[task, number] = key
        try:
            nonce = verify_token(token, key, challenge(task, number))
        except CredentialError as error:
            raise NotAuthenticated(str(error), code="wrong_token") from None
        return sha256(b"anonymous token" + nonce).digest()
