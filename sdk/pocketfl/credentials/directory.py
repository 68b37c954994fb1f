"""That every device sees the same token keys: a curious issuer could give each its own, and so link.

The keys of a task stand in a directory that only grows: a chain of hashes with a link for each epoch's
key, kept by the trusted tier, which takes one key for each epoch and no second one. Its head is vouched
for by the same attestation as the key that reports are sealed to. A device checks both, remembers what
it saw, and refuses keys that are not of the directory, or of another one. It looks twice: when it
fetches tokens, where it is known, and before it shows one, where it is not, so whoever shows two views
has to guess which one to show (compare draft-ietf-privacypass-key-consistency).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Final, Protocol, runtime_checkable

from pocketfl.database import Database
from pocketfl.decoding import decode_json, encode_json
from pocketfl.errors import DecodeError, KeyConsistencyError
from pocketfl.protocol import AggregatorKey, LedgerHead, TokenKey, TokenKeys
from pocketfl.reasons import Reason

_LABEL: Final = b"pocketfl token key directory 1"
_STATE: Final = "token_keys."
_REMEMBERED: Final = 64
"""Links that a device remembers: as many epochs back can it recognise another history."""
_LIMIT: Final = 64 * 2**10


@runtime_checkable
class DirectoryVerifier(Protocol):
    """Decides whether a trusted tier vouches for a directory of token keys."""

    def verify_token_keys(self, key: AggregatorKey, *, policy_hash: str, head: LedgerHead) -> None:
        """Return if it does.

        Parameters
        ----------
        key : AggregatorKey
            Of the task, with what vouches for it.
        policy_hash : str
            Of the task's plan.
        head : LedgerHead
            Of the directory.

        Raises
        ------
        AggregatorRefusedError
            If the key is not trusted, or nothing vouches for the directory.
        """


def empty_directory(task: str) -> LedgerHead:
    """Return the head of a task's directory before its first key."""
    return LedgerHead(sequence=0, digest=sha256(_LABEL + task.encode()).hexdigest())


def extend(head: LedgerHead, *, first_round: int, last_round: int, key_sha256: str) -> LedgerHead:
    """Return the head after one more key.

    Parameters
    ----------
    head : LedgerHead
        Before it.
    first_round, last_round : int
        The epoch's rounds, both included.
    key_sha256 : str
        Of the encoded public key, in hex.
    """
    entry = first_round.to_bytes(8, "big") + last_round.to_bytes(8, "big")
    link = sha256(_LABEL + bytes.fromhex(head.digest) + entry + bytes.fromhex(key_sha256))
    return LedgerHead(sequence=head.sequence + 1, digest=link.hexdigest())


def heads_of(start: LedgerHead, keys: Iterable[TokenKey]) -> list[LedgerHead]:
    """Return the heads from the one before the first key to the one after the last.

    Raises
    ------
    KeyConsistencyError
        If a key is no hex.
    """
    heads = [start]
    for key in keys:
        try:
            digest = sha256(bytes.fromhex(key.public_key)).hexdigest()
        except ValueError:
            raise KeyConsistencyError("a token key is no hex") from None
        heads.append(
            extend(
                heads[-1],
                first_round=key.first_round,
                last_round=key.last_round,
                key_sha256=digest,
            )
        )
    return heads


@dataclass(frozen=True, kw_only=True)
class _Seen:
    """What is remembered of a task's directory.

    Attributes
    ----------
    key_id, policy_hash : str
        Of the trusted tier that vouched for it.
    sequence : int
        Number of the first digest.
    digests : tuple of str
        Of the heads that were seen, the newest last.
    refused : str or None
        What was wrong the last time, if it was refused.
    """

    key_id: str
    policy_hash: str
    sequence: int
    digests: tuple[str, ...]
    refused: str | None = None


class KeyDirectory:
    """A device's memory of token keys, and its judgement of those that it is shown.

    Parameters
    ----------
    verifier : DirectoryVerifier
        Decides whether a trusted tier vouches for them.
    database : Database
        The device's file.
    """

    def __init__(self, verifier: DirectoryVerifier, database: Database) -> None:
        self._verifier = verifier
        self._database = database

    def check(self, keys: TokenKeys) -> None:
        """Return if the keys are those that everybody sees, as far as this device can know.

        Raises
        ------
        KeyConsistencyError
            If they are not of the directory that this device saw before.
        AggregatorRefusedError
            If no trusted tier vouches for them.
        """
        heads = heads_of(keys.start, keys.keys)
        self._verifier.verify_token_keys(
            keys.aggregator, policy_hash=keys.policy_hash, head=heads[-1]
        )
        # One transaction, so that two looks at a time cannot both believe to be the first.
        with self._database.transaction():
            seen = self._seen(keys.task)
            refused = None if seen is None else _difference(seen, keys, heads)
            if seen is None:
                digests = {head.sequence: head.digest for head in heads}
                seen = _Seen(
                    key_id=keys.aggregator.key_id,
                    policy_hash=keys.policy_hash,
                    sequence=0,
                    digests=(),
                )
            else:
                digests = dict(enumerate(seen.digests, start=seen.sequence))
            if refused is None:
                digests |= {head.sequence: head.digest for head in heads}
                # Of a device that was away for long, only what is in one piece.
                first = last = max(digests)
                while first - 1 in digests and last - first + 1 < _REMEMBERED:
                    first -= 1
                seen = replace(
                    seen,
                    sequence=first,
                    digests=tuple(digests[n] for n in range(first, last + 1)),
                )
            self._database.write_state(
                _STATE + keys.task, encode_json(replace(seen, refused=refused))
            )
        if refused is not None:
            raise KeyConsistencyError(refused)

    def objections(self, task: str) -> tuple[Reason, ...]:
        """Return what was wrong with a task's token keys the last time, for explanations."""
        try:
            seen = self._seen(task)
            refused = None if seen is None else seen.refused
        except KeyConsistencyError as error:
            refused = str(error)
        if refused is None:
            return ()
        return (
            Reason(
                condition="anonymous token keys",
                observed=refused,
                required="the keys that this device saw before",
            ),
        )

    def _seen(self, task: str) -> _Seen | None:
        kept = self._database.read_state(_STATE + task)
        if kept is None:
            return None
        try:
            return decode_json(_Seen, kept, what="token keys", limit=_LIMIT)
        except DecodeError:
            raise KeyConsistencyError(
                "what this device knew of the task's token keys is damaged; none is used"
            ) from None


def _difference(seen: _Seen, keys: TokenKeys, heads: list[LedgerHead]) -> str | None:
    """Return in words how keys contradict what was seen before, or None."""
    if (seen.key_id, seen.policy_hash) != (keys.aggregator.key_id, keys.policy_hash):
        return "another trusted tier vouches for the token keys than before"
    known = dict(enumerate(seen.digests, start=seen.sequence))
    if any(known.get(head.sequence, head.digest) != head.digest for head in heads):
        return "there are two sets of token keys for the same rounds"
    if heads[-1].sequence < seen.sequence:
        return "the token keys went back to those of long ago"
    return None
