"""The check-in: a place in a round, and all that decides what is trained for it."""

from __future__ import annotations

import random
import secrets
from collections.abc import Callable
from hashlib import sha256
from typing import TYPE_CHECKING, Final

from pocketfl import __version__
from pocketfl.device.attempt import RoundEnd
from pocketfl.device.enrolment import DeviceToken
from pocketfl.device.plans import OpenPlan
from pocketfl.device.sessions import Session
from pocketfl.errors import AggregatorRefusedError, StoreError, TransportError
from pocketfl.plan.manifest import Manifest
from pocketfl.plan.schemas import READABLE_SCHEMAS
from pocketfl.protocol import Assignment, CheckIn, RetryWindow, RoundNotice
from pocketfl.store import ExampleStore
from pocketfl.transport import Transport

if TYPE_CHECKING:
    from pocketfl.credentials.wallet import Wallet

SDK_BUCKET: Final = ".".join(__version__.split(".")[:2])
"""What an anonymous check-in says of the SDK's version."""


class Leases:
    """Asks a back end for places in rounds.

    Parameters
    ----------
    store : ExampleStore
        The device's examples.
    transport : Transport
        The line to the back end.
    token : DeviceToken
        What a check-in is authenticated with.
    wallet : Wallet or None
        Anonymous tokens to check in with instead; None checks in under the device's token.
    runtime : str
        What would train.
    user : str
        The app's name for the user.
    seed : int or None
        Makes the choice and order of examples reproducible.
    clock : callable
        Unix time in seconds.
    """

    def __init__(
        self,
        store: ExampleStore,
        transport: Transport,
        *,
        token: DeviceToken,
        wallet: Wallet | None,
        runtime: str,
        user: str,
        seed: int | None,
        clock: Callable[[], float],
    ) -> None:
        self._store = store
        self._transport = transport
        self._token = token
        self._wallet = wallet
        self._runtime = runtime
        self._user = user
        self._seed = seed
        self._clock = clock

    def take(self, notice: RoundNotice, opened: OpenPlan) -> Session:
        """Check in for a round.

        Raises
        ------
        RoundEnd
            If the back end has no place now, saying when to ask again.
        TransportError
            If it cannot be reached, or refuses.
        KeyConsistencyError, AggregatorRefusedError
            If an anonymous token's key is not, or need not be, the one that others have.
        """
        if self._wallet is None:
            answer = self._check_in(notice)
        else:
            answer = self._anonymously(self._wallet, notice, opened.plan.manifest.policy_hash)
        if isinstance(answer, RetryWindow):
            raise RoundEnd(
                "turned_away",
                answer.reason,
                f"the server has no place in round {notice.round} ({answer.reason})",
                retry_after=random.uniform(answer.min_seconds, answer.max_seconds),  # noqa: S311
            )
        now = self._clock()
        collection = opened.plan.manifest.features.collection
        return Session(
            notice=notice,
            assignment=answer,
            collection=collection,
            seed=self._training_seed(notice),
            # A question is answered without a collection, too.
            examples_up_to=self._last_id(collection),
            began_at=now,
            upload_after=_draw_upload(opened.plan.manifest, now, answer.expires_at),
        )

    def _last_id(self, collection: str) -> int:
        try:
            return self._store.last_id(collection)
        except StoreError:
            if self._store.has_collection(collection):
                raise
            return 0

    def _check_in(self, notice: RoundNotice) -> Assignment | RetryWindow:
        request = CheckIn(sdk=__version__, plan_schemas=READABLE_SCHEMAS, runtimes=(self._runtime,))
        token = self._token.get()
        try:
            return self._transport.check_in(token, notice.task, notice.round, request)
        except TransportError as error:
            if error.status == 401:
                self._token.forget()
            raise

    def _anonymously(
        self, wallet: Wallet, notice: RoundNotice, policy_hash: str
    ) -> Assignment | RetryWindow:
        vouches = wallet.check(notice.task, notice.round, policy_hash=policy_hash)
        token = None if vouches is None else wallet.take(notice.task, notice.round)
        if token is None:
            raise RoundEnd(
                "ineligible",
                "no_anonymous_token",
                f"there is no anonymous token for round {notice.round}; to fetch one now would tell "
                "who checks in",
            )
        # What a check-in says must not single a device out: one of few buckets, not the exact version.
        request = CheckIn(sdk=SDK_BUCKET, plan_schemas=READABLE_SCHEMAS, runtimes=(self._runtime,))
        answer = self._transport.check_in_anonymously(token, notice.task, notice.round, request)
        if isinstance(answer, RetryWindow) and answer.reason != "token_spent":
            wallet.put_back(notice.task, notice.round)
        if isinstance(answer, Assignment) and answer.aggregator.key_id != vouches:
            raise AggregatorRefusedError(
                "the round's trusted tier is not the one that vouches for the token keys"
            )
        return answer

    def _training_seed(self, notice: RoundNotice) -> int:
        if self._seed is None:
            return secrets.randbits(62)
        return training_seed(self._seed, user=self._user, task=notice.task, round=notice.round)


def training_seed(seed: int, *, user: str, task: str, round: int) -> int:  # noqa: A002
    """Return what decides a seeded device's examples and their order in a round."""
    text = f"{seed}/{user}/{task}/{round}"
    return int.from_bytes(sha256(text.encode()).digest()[:7], "big")


def _draw_upload(manifest: Manifest, now: float, expires_at: float) -> float:
    """Draw when a report may leave, from a tenth of the plan's delay to all of it from now."""
    queries = manifest.queries
    if queries is None or queries.upload_delay_seconds == 0:
        return 0.0
    # Half of the lease is left for the upload itself.
    longest = min(queries.upload_delay_seconds, max(0.0, expires_at - now) / 2)
    return now + longest * (0.1 + 0.9 * secrets.randbelow(2**32) / 2**32)
