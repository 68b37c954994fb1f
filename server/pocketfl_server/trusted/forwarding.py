"""The root's releases on their way to shards, so that a shard's devices train from the newest model.

A release may be read by anybody, but only the root's trusted tier may have made it: a back end or an
engine that carries it could otherwise move the model of a shard's devices. So it is sealed as partial
sums are, the other way round: to the shard's key, in the root's name.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Final

from pocketfl.errors import DecodeError, SealingError
from pocketfl.protocol import AggregatorKey
from pocketfl_server.trusted.authenticated_sealing import (
    canonical_info,
    open_between,
    seal_between,
)
from pocketfl_server.trusted.messages import SealedRelease
from pocketfl_server.trusted.refusals import MalformedRequest
from pocketfl_server.trusted.releases import Release, decode_release

_INFO_LABEL: Final = b"pocketfl release to a shard 1"


@dataclass(frozen=True, kw_only=True)
class ReleaseContext:
    """What a release belongs to.

    Attributes
    ----------
    root_key_id, shard_key_id : str
        SHA-256 (hex) of both tiers' raw public keys for the task.
    policy_hash, plan_sha256, task, round, model_version
        Of the release.
    """

    root_key_id: str
    shard_key_id: str
    policy_hash: str
    plan_sha256: str
    task: str
    round: int
    model_version: int

    def info(self) -> bytes:
        """Return the canonical bytes, under which it is sealed."""
        values = [getattr(self, item.name) for item in fields(self)]
        return canonical_info(_INFO_LABEL, values)


def seal_release(
    release: bytes,
    *,
    context: ReleaseContext,
    shard_key: bytes,
    private_key: bytes,
    own: AggregatorKey,
) -> SealedRelease:
    """Seal an encoded release to a shard.

    Parameters
    ----------
    release : bytes
        As it is in the root's ledger.
    context : ReleaseContext
        What it belongs to.
    shard_key, private_key : bytes
        The shard's public key, which was verified, and the root's own private one.
    own : AggregatorKey
        The root's key with what vouches for it.
    """
    sealed = seal_between(
        release, recipient_key=shard_key, private_key=private_key, info=context.info()
    )
    return SealedRelease(
        task=context.task,
        round=context.round,
        model_version=context.model_version,
        key=own,
        sealed=sealed,
    )


def open_release(
    message: SealedRelease,
    *,
    verify: Callable[[AggregatorKey], bytes],
    private_key: bytes,
    shard_key_id: str,
    policy_hash: str,
    plan_sha256: str,
) -> tuple[bytes, Release]:
    """Open what the root sealed; returns its bytes, and what they say.

    Parameters
    ----------
    message : SealedRelease
        From the root.
    verify : callable
        Returns the raw public key of a peer that is vouched for, and raises otherwise.
    private_key, shard_key_id, policy_hash, plan_sha256
        Of this tier's task.

    Raises
    ------
    MalformedRequest
        With code ``release_refused`` if it does not open as what it says it is.
    """
    context = ReleaseContext(
        root_key_id=message.key.key_id,
        shard_key_id=shard_key_id,
        policy_hash=policy_hash,
        plan_sha256=plan_sha256,
        task=message.task,
        round=message.round,
        model_version=message.model_version,
    )
    try:
        data = open_between(
            message.sealed,
            private_key=private_key,
            sender_key=verify(message.key),
            info=context.info(),
            what="release",
        )
        release = decode_release(data)
    except (SealingError, DecodeError) as error:
        raise MalformedRequest(str(error), code="release_refused") from None
    said = (release.task, release.round, release.model_version, release.plan_sha256)
    if said != (message.task, message.round, message.model_version, plan_sha256):
        raise MalformedRequest("the release is of something else", code="release_refused")
    return data, release
