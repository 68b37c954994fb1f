"""Signs one token per device and epoch, unseen; :mod:`.redemption` recognises them at check-in.

There is a key for each task and epoch (:mod:`.epochs`). Keys are announced for epochs that are still to
come, the same to everybody, so that devices can ask for tokens at times that have nothing to do with
their check-ins. How often a device takes part is limited here, where the device is known, and nowhere
later.
"""

from __future__ import annotations

import hmac
import threading
from collections.abc import Sequence
from dataclasses import replace
from hashlib import sha256
from typing import Any

from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_der_private_key,
)
from sqlalchemy import Connection, Row, bindparam, func, select

from pocketfl.credentials.tokens import encode_key, read_request
from pocketfl.errors import CredentialError
from pocketfl.protocol import TokenKey, TokenKeys
from pocketfl_server.credentials.directory import PublicDirectory
from pocketfl_server.credentials.epochs import Epoch, epochs_ahead
from pocketfl_server.credentials.signing import blind_sign
from pocketfl_server.database import (
    Database,
    devices,
    issued_tokens,
    rounds,
    spent_tokens,
    token_keys,
)
from pocketfl_server.enrolment import Enrolments
from pocketfl_server.errors import Conflict, Malformed, NotFound
from pocketfl_server.records import TaskRecord
from pocketfl_server.tasks import Tasks

_LATEST = select(func.coalesce(func.max(rounds.c.number), 0)).where(
    rounds.c.task == bindparam("task")
)
_KEYS = (
    select(token_keys.c.first_round, token_keys.c.last_round, token_keys.c.public_key)
    .where(token_keys.c.task == bindparam("task"), token_keys.c.last_round >= bindparam("latest"))
    .order_by(token_keys.c.first_round)
)
_KEY = select(token_keys.c.last_round, token_keys.c.public_key, token_keys.c.private_key).where(
    token_keys.c.task == bindparam("task"), token_keys.c.first_round == bindparam("first_round")
)
# Two requests of one device wait for each other here (PostgreSQL; SQLite has one writer anyway).
_LOCK_DEVICE = (
    select(devices.c.token_sha256)
    .where(devices.c.token_sha256 == bindparam("device"))
    .with_for_update()
)
_OF_DEVICE = (
    issued_tokens.c.task == bindparam("task"),
    issued_tokens.c.device == bindparam("device"),
)
_ISSUED = select(issued_tokens.c.request_sha256).where(
    *_OF_DEVICE, issued_tokens.c.first_round == bindparam("first_round")
)
_TOO_NEAR = select(issued_tokens.c.first_round, issued_tokens.c.last_round).where(
    *_OF_DEVICE,
    issued_tokens.c.first_round != bindparam("first_round"),
    issued_tokens.c.first_round < bindparam("up_to"),
    issued_tokens.c.last_round > bindparam("after"),
)
_FORGET_KEYS = token_keys.delete().where(
    token_keys.c.task == bindparam("its_task"), token_keys.c.last_round <= bindparam("ended")
)
_FORGET_SPENT = spent_tokens.delete().where(
    spent_tokens.c.task == bindparam("its_task"), spent_tokens.c.last_round <= bindparam("ended")
)
# As long as a token for a round to come could be too near.
_FORGET_ISSUED = issued_tokens.delete().where(
    issued_tokens.c.task == bindparam("its_task"), issued_tokens.c.last_round <= bindparam("far")
)


def forget_tokens(connection: Connection, task: str, *, ended: int, separation: int) -> None:
    """Delete keys and spent tokens of epochs that ended with a round, and who had tokens long ago.

    Parameters
    ----------
    ended : int
        The round.
    separation : int
        Of the task's plan.
    """
    connection.execute(_FORGET_KEYS, {"its_task": task, "ended": ended})
    connection.execute(_FORGET_SPENT, {"its_task": task, "ended": ended})
    connection.execute(_FORGET_ISSUED, {"its_task": task, "far": ended + 1 - separation})


class TokenIssuer:
    """Keys by task and epoch, and what was signed with them.

    Parameters
    ----------
    database : Database
        Keeps keys, and which device has had its token; never a token.
    tasks : Tasks
        Knows which tasks there are.
    enrolments : Enrolments
        Knows devices.
    directory : PublicDirectory
        Has the keys vouched for.
    """

    def __init__(
        self,
        database: Database,
        task_list: Tasks,
        enrolments: Enrolments,
        *,
        directory: PublicDirectory,
    ) -> None:
        self._database = database
        self._tasks = task_list
        self._enrolments = enrolments
        self._directory = directory
        self._making = threading.Lock()
        insert = database.insert
        self._add_key = insert(token_keys).on_conflict_do_nothing()
        self._add_issued = insert(issued_tokens).on_conflict_do_nothing()

    def keys(self, task: str) -> TokenKeys:
        """Return the keys from the epoch under way on, making those that are missing.

        Raises
        ------
        NotFound
            With code ``unknown_task``.
        TrustedTierError
            If the trusted tier does not vouch for them.
        """
        record = self._tasks.get(task)
        with self._database.reading() as connection:
            latest = _latest(connection, task)
            known = _known(connection, task, latest)
        wanted = epochs_ahead(latest, rounds_per_token=record.rounds_per_token)
        have = {key.first_round for key in known}
        if any(epoch.first not in have for epoch in wanted):
            known = self._make(task, latest, wanted)
        published = self._directory.publish(task, tuple(known))
        return TokenKeys(
            task=task,
            next_round=latest + 1,
            separation=self._separation(record),
            keys=tuple(known),
            start=published.start,
            policy_hash=self._tasks.manifest(record.plan_sha256).policy_hash,
            aggregator=replace(record.aggregator, attestation=published.attestation),
        )

    def _separation(self, record: TaskRecord) -> int:
        return self._tasks.manifest(record.plan_sha256).min_separation

    def _make(self, task: str, latest: int, wanted: Sequence[Epoch]) -> list[TokenKey]:
        # Making a key takes a tenth of a second, so one thread makes them and the others wait for it.
        with self._making:
            with self._database.reading() as connection:
                have = {key.first_round for key in _known(connection, task, latest)}
            made = []
            for epoch in wanted:
                if epoch.first in have:
                    continue
                key = rsa.generate_private_key(65537, 2048)
                made.append(
                    {
                        "task": task,
                        "first_round": epoch.first,
                        "last_round": epoch.last,
                        "public_key": encode_key(key.public_key()),
                        "private_key": key.private_bytes(
                            Encoding.DER, PrivateFormat.PKCS8, NoEncryption()
                        ),
                    }
                )
            with self._database.writing() as connection:
                if made:
                    connection.execute(self._add_key, made)
                # Another gateway may have been quicker: what is on record is what counts.
                return _known(connection, task, latest)

    def issue(self, token: str, task: str, first_round: int, request: bytes) -> bytes:
        """Sign a device's blinded token for an epoch; the same request again gets the same answer.

        Parameters
        ----------
        token : str
            The device's own token: here it is known who asks, and not for what.
        task, first_round
            An epoch that is still to come.
        request : bytes
            A token request of RFC 9578.

        Raises
        ------
        NotAuthenticated
            If no device has the token.
        NotFound
            With code ``no_token_key`` if tokens for this epoch are not to be had.
        Conflict
            With code ``token_issued`` if the device has had one for this epoch, ``token_too_soon`` if
            it has had one for another with rounds nearer than the plan's separation.
        Malformed
            If the request is none.
        """
        with self._database.reading() as connection:
            device = self._enrolments.authenticate(connection, token).device
            latest = _latest(connection, task)
            row = connection.execute(_KEY, {"task": task, "first_round": first_round}).first()
        if row is None or first_round <= latest:
            raise NotFound(
                f"tokens for an epoch that begins with round {first_round} are not to be had; see the "
                "token keys of the task",
                code="no_token_key",
            )
        try:
            blinded = read_request(request, bytes(row.public_key))
            private = load_der_private_key(bytes(row.private_key), password=None)
            if not isinstance(private, rsa.RSAPrivateKey):
                raise CredentialError("the key of this epoch is damaged")
            response = blind_sign(private, blinded)
        except CredentialError as error:
            raise Malformed(str(error), code="token_request") from None
        digest = sha256(request).digest()
        separation = self._separation(self._tasks.get(task))
        issued = {
            "task": task,
            "first_round": first_round,
            "last_round": int(row.last_round),
            "device": device,
            "request_sha256": digest,
        }
        near = {
            "task": task,
            "device": device,
            "first_round": first_round,
            "up_to": int(row.last_round) + separation,
            "after": first_round - separation,
        }
        with self._database.writing() as connection:
            connection.execute(_LOCK_DEVICE, {"device": device})
            other = connection.execute(_TOO_NEAR, near).first()
            if other is not None:
                raise Conflict(
                    f"this device has had its token for rounds {other.first_round} to "
                    f"{other.last_round}; the next is for rounds at least {separation} later",
                    code="token_too_soon",
                )
            connection.execute(self._add_issued, issued)
            first = connection.execute(
                _ISSUED, {"task": task, "device": device, "first_round": first_round}
            ).scalar_one()
        if not hmac.compare_digest(bytes(first), digest):
            raise Conflict(
                f"this device has had its token for rounds {first_round} to {row.last_round}",
                code="token_issued",
            )
        return response


def _latest(connection: Connection, task: str) -> int:
    return int(connection.execute(_LATEST, {"task": task}).scalar_one())


def _known(connection: Connection, task: str, latest: int) -> list[TokenKey]:
    return [key_of(row) for row in connection.execute(_KEYS, {"task": task, "latest": latest})]


def key_of(row: Row[Any, Any, Any]) -> TokenKey:
    """Return a key as it is announced, from its row."""
    return TokenKey(
        first_round=row.first_round,
        last_round=row.last_round,
        public_key=bytes(row.public_key).hex(),
    )
