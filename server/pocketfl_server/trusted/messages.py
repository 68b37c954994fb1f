"""What the back end and the trusted tier say to each other, releases and refusals apart.

The back end may import this module, :mod:`.releases`, :mod:`.refusals` and :mod:`.client`, nothing else
of the trusted tier. Sealed reports travel in one bounded binary batch.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeVar

from pocketfl.decoding import decode_json, encode_json
from pocketfl.errors import DecodeError
from pocketfl.plan.aggregation import BudgetUnit
from pocketfl.plan.models import MAX_PARAMETERS
from pocketfl.protocol import (
    REPORT_OVERHEAD,
    AggregatorKey,
    Attestation,
    LedgerHead,
    check_digest,
    check_identifier,
    check_token,
)
from pocketfl_server.trusted.releases import HEADER_LIMIT, RELEASE_LIMIT, BudgetStatement

T = TypeVar("T")

MAX_SEALED_BYTES: Final = 2 * MAX_PARAMETERS + REPORT_OVERHEAD
"""Largest sealed report: two bytes for each coordinate."""
BATCH_LIMIT: Final = 128 * 2**20
"""Largest batch of sealed reports in bytes; one report of the largest model fits."""
MAX_BATCH_ENTRIES: Final = 4096
MAX_TOKEN_KEYS: Final = 64

_BATCH_MAGIC: Final = b"PFB1"
_BATCH_WITH_ORIGINS: Final = b"PFB2"
_PARTIAL_MAGIC: Final = b"PFS1"
_SEALED_RELEASE_MAGIC: Final = b"PFF1"
PARTIAL_LIMIT: Final = RELEASE_LIMIT + HEADER_LIMIT + 8
"""Largest sealed partial sum with its header, in bytes."""
SEALED_LIMIT: Final = PARTIAL_LIMIT + HEADER_LIMIT + 8
"""The same of a release on its way to a shard, which has a header inside as well."""


@dataclass(frozen=True, kw_only=True)
class KeyDescription:
    """The public half of a task's key, and the plan and policy that the private half is bound to.

    Attributes
    ----------
    key_id : str
        SHA-256 (hex) of the raw public key.
    public_key : str
        X25519 public key, 32 bytes in hex.
    plan_sha256 : str
        The plan's archive.
    policy_hash : str
        ``Manifest.policy_hash`` of that plan.
    """

    key_id: str
    public_key: str
    plan_sha256: str
    policy_hash: str

    def __post_init__(self) -> None:
        for name in ("key_id", "public_key", "plan_sha256", "policy_hash"):
            check_digest(getattr(self, name), what=name)


@dataclass(frozen=True, kw_only=True)
class PrivacyStatement:
    """What a number of releases reveals about one device, and what that claim rests on.

    Attributes
    ----------
    privacy : {"gaussian", "none"}
        ``none`` means that nothing is claimed: every epsilon and delta is ``None``.
    epsilon : float or None
        Against someone who sees the released models only.
    epsilon_against_back_end : float or None
        Against someone who also sees which devices took part in which round.
    delta : float or None
        Goes with both.
    noise_multiplier : float
        Standard deviation of the noise over the norm bound; 0 for privacy ``none``.
    sampling_probability : float
        Probability of a device's own coin.
    releases : int
        Number of releases that the statement is about.
    max_rounds, max_participations : int
        Caps of the signed plan.
    unit : {"device", "device-day"}
        Whose data the claim is about; of one day's log, each day of which is in one release only.
    neighbouring_relation, sampling : str
        The assumptions, in words.
    """

    privacy: Literal["gaussian", "none"]
    epsilon: float | None = None
    epsilon_against_back_end: float | None = None
    delta: float | None = None
    noise_multiplier: float
    sampling_probability: float
    releases: int
    max_rounds: int
    max_participations: int
    unit: BudgetUnit = "device"
    neighbouring_relation: str
    sampling: str


@dataclass(frozen=True, kw_only=True)
class TaskDescription:
    """Where a task stands.

    Attributes
    ----------
    key : KeyDescription
        The task's key.
    last_released_round : int
        0 before the first release.
    planned, spent : PrivacyStatement
        At the plan's ``max_rounds``, and after the releases so far.
    budget : BudgetStatement or None
        The account that the task shares with others, if its plan names one.
    affords_next : bool
        Whether plan and account allow one more release, of the round after the last one released or of
        a later one.
    """

    task: str
    key: KeyDescription
    last_released_round: int
    planned: PrivacyStatement
    spent: PrivacyStatement
    budget: BudgetStatement | None = None
    affords_next: bool = True


@dataclass(frozen=True, kw_only=True)
class TokenKeyDigest:
    """What a task's directory of token keys holds of one.

    Attributes
    ----------
    first_round, last_round : int
        Of the epoch, both included.
    sha256 : str
        Of the encoded public key.
    """

    first_round: int
    last_round: int
    sha256: str

    def __post_init__(self) -> None:
        check_digest(self.sha256, what="sha256 of a token key")
        if not 1 <= self.first_round <= self.last_round < 2**31:
            raise ValueError("an epoch has at least one round, and rounds count from 1")


@dataclass(frozen=True, kw_only=True)
class TokenKeyDigests:
    """Request: have keys of anonymous tokens vouched for, in the order of their rounds."""

    keys: tuple[TokenKeyDigest, ...]

    def __post_init__(self) -> None:
        if not 1 <= len(self.keys) <= MAX_TOKEN_KEYS:
            raise ValueError(f"1 to {MAX_TOKEN_KEYS} token keys at a time")


@dataclass(frozen=True, kw_only=True)
class PublishedTokenKeys:
    """What vouches for keys of anonymous tokens.

    Attributes
    ----------
    start : LedgerHead
        Of the task's directory before the first of them.
    attestation : Attestation or None
        A token that also carries the nonce of the directory's head after the last of them; None from a
        trusted tier without attestation.
    """

    start: LedgerHead
    attestation: Attestation | None = None


def _check_position(number: int, model_version: int) -> None:
    """Refuse what is no round of a task, or no version of its model."""
    if not (1 <= number < 2**31 and 0 <= model_version < 2**31):
        raise ValueError("round counts from 1 and model_version from 0")


@dataclass(frozen=True, kw_only=True)
class SealedEntry:
    """One sealed report under its lease, as the back end relays it unread.

    Attributes
    ----------
    lease : str
        The lease.
    sealed : bytes
        The report.
    origin : tuple of (int, int) or None
        Round and model version that the device checked in to, where rounds are asynchronous; else
        those that it is submitted to.
    """

    lease: str
    sealed: bytes
    origin: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        check_token(self.lease, what="lease")
        if self.origin is not None:
            _check_position(*self.origin)
        if len(self.sealed) > MAX_SEALED_BYTES:
            raise ValueError(
                f"a sealed report has {len(self.sealed)} bytes; {MAX_SEALED_BYTES} at most"
            )


@dataclass(frozen=True, kw_only=True)
class SealedPartialSum:
    """A shard's sum without noise, sealed to the root's trusted tier; whoever relays it cannot read it.

    Attributes
    ----------
    shard : str
        Name of the shard.
    task, round, model_version
        What it is a sum of.
    key : AggregatorKey
        The shard's, with what vouches for it.
    sealed : bytes
        See :mod:`.partial_sums`.
    """

    shard: str
    task: str
    round: int
    model_version: int
    key: AggregatorKey
    sealed: bytes

    def __post_init__(self) -> None:
        check_identifier(self.shard, what="shard")
        check_identifier(self.task, what="task")
        _check_position(self.round, self.model_version)
        if len(self.sealed) > RELEASE_LIMIT:
            raise ValueError(f"a partial sum has at most {RELEASE_LIMIT} bytes")


@dataclass(frozen=True, kw_only=True)
class SealedRelease:
    """A release of the root on its way to a shard; whoever relays it can neither read nor change it.

    Attributes
    ----------
    task, round, model_version
        What it is a release of.
    key : AggregatorKey
        The root's, with what vouches for it.
    sealed : bytes
        See :mod:`.forwarding`.
    """

    task: str
    round: int
    model_version: int
    key: AggregatorKey
    sealed: bytes

    def __post_init__(self) -> None:
        check_identifier(self.task, what="task")
        _check_position(self.round, self.model_version)
        if len(self.sealed) > PARTIAL_LIMIT:
            raise ValueError(f"a sealed release has at most {PARTIAL_LIMIT} bytes")


@dataclass(frozen=True, kw_only=True)
class _SealedReleaseHeader:
    task: str
    round: int
    model_version: int
    key: AggregatorKey


@dataclass(frozen=True, kw_only=True)
class _PartialHeader:
    shard: str
    task: str
    round: int
    model_version: int
    key: AggregatorKey


def batches(entries: Iterable[SealedEntry]) -> Iterator[list[SealedEntry]]:
    """Split entries into batches that each fit :data:`BATCH_LIMIT` and :data:`MAX_BATCH_ENTRIES`."""
    batch: list[SealedEntry] = []
    size = len(_BATCH_MAGIC) + 4
    for entry in entries:
        cost = 14 + len(entry.lease) + len(entry.sealed)
        if batch and (len(batch) == MAX_BATCH_ENTRIES or size + cost > BATCH_LIMIT):
            yield batch
            batch, size = [], len(_BATCH_MAGIC) + 4
        batch.append(entry)
        size += cost
    if batch:
        yield batch


def encode_batch(entries: Sequence[SealedEntry]) -> bytes:
    """Return a batch's bytes: magic, count, then lease and report with their lengths for each.

    Where entries have an origin, all of them do, and its two numbers come before the lease.

    Raises
    ------
    ValueError
        If only some entries have an origin.
    """
    with_origins = {entry.origin is not None for entry in entries}
    if len(with_origins) > 1:
        raise ValueError("either every entry of a batch has an origin or none has")
    magic = _BATCH_WITH_ORIGINS if True in with_origins else _BATCH_MAGIC
    parts = [magic, struct.pack("<I", len(entries))]
    for entry in entries:
        lease = entry.lease.encode("ascii")
        parts.append(struct.pack("<HI", len(lease), len(entry.sealed)))
        if entry.origin is not None:
            parts.append(struct.pack("<II", *entry.origin))
        parts += [lease, entry.sealed]
    return b"".join(parts)


def decode_batch(data: bytes) -> tuple[SealedEntry, ...]:
    """Read a batch from outside.

    Parameters
    ----------
    data : bytes
        What :func:`encode_batch` made; at most :data:`BATCH_LIMIT` bytes.

    Raises
    ------
    DecodeError
        If it is too long, truncated, has bytes left over, or an entry is out of bounds.
    """
    if len(data) > BATCH_LIMIT:
        raise DecodeError(f"batch: {len(data)} bytes, more than the {BATCH_LIMIT} allowed")
    if len(data) < 8 or data[:4] not in (_BATCH_MAGIC, _BATCH_WITH_ORIGINS):
        raise DecodeError("batch: not a batch of sealed reports")
    (count,) = struct.unpack_from("<I", data, 4)
    if count > MAX_BATCH_ENTRIES:
        raise DecodeError(f"batch: {count} entries, more than the {MAX_BATCH_ENTRIES} allowed")
    head = struct.Struct("<HIII" if data[:4] == _BATCH_WITH_ORIGINS else "<HI")
    entries = []
    at = 8
    for index in range(count):
        if len(data) - at < head.size:
            raise DecodeError(f"batch: truncated at entry {index}")
        lease_size, sealed_size, *origin = head.unpack_from(data, at)
        at += head.size
        if len(data) - at < lease_size + sealed_size:
            raise DecodeError(f"batch: truncated at entry {index}")
        try:
            lease = data[at : at + lease_size].decode("ascii")
            sealed = data[at + lease_size : at + lease_size + sealed_size]
            came_from = (origin[0], origin[1]) if origin else None
            entries.append(SealedEntry(lease=lease, sealed=sealed, origin=came_from))
        except ValueError as error:
            raise DecodeError(f"batch: entry {index}: {error}") from None
        at += lease_size + sealed_size
    if at != len(data):
        raise DecodeError(f"batch: {len(data) - at} bytes left over")
    return tuple(entries)


def encode_partial_message(partial: SealedPartialSum) -> bytes:
    """Return a sealed partial sum's bytes: magic, length of the header, JSON header, what is sealed."""
    header = encode_json(
        _PartialHeader(
            shard=partial.shard,
            task=partial.task,
            round=partial.round,
            model_version=partial.model_version,
            key=partial.key,
        )
    )
    return _join(_PARTIAL_MAGIC, header, partial.sealed)


def decode_partial_message(data: bytes) -> SealedPartialSum:
    """Read what :func:`encode_partial_message` made.

    Raises
    ------
    DecodeError
        If it is truncated, too long, or no sealed partial sum.
    """
    header, sealed = _split(data, _PARTIAL_MAGIC, _PartialHeader, what="partial sum")
    try:
        return SealedPartialSum(**vars(header), sealed=sealed)
    except ValueError as error:
        raise DecodeError(f"partial sum: {error}") from None


def encode_sealed_release(release: SealedRelease) -> bytes:
    """Return a sealed release's bytes, laid out as a partial sum's."""
    header = encode_json(
        _SealedReleaseHeader(
            task=release.task,
            round=release.round,
            model_version=release.model_version,
            key=release.key,
        )
    )
    return _join(_SEALED_RELEASE_MAGIC, header, release.sealed)


def decode_sealed_release(data: bytes) -> SealedRelease:
    """Read what :func:`encode_sealed_release` made.

    Raises
    ------
    DecodeError
        If it is truncated, too long, or no sealed release.
    """
    header, sealed = _split(data, _SEALED_RELEASE_MAGIC, _SealedReleaseHeader, what="release")
    try:
        return SealedRelease(**vars(header), sealed=sealed)
    except ValueError as error:
        raise DecodeError(f"release: {error}") from None


def _join(magic: bytes, header: bytes, sealed: bytes) -> bytes:
    return b"".join([magic, struct.pack("<I", len(header)), header, sealed])


def _split(data: bytes, magic: bytes, kind: type[T], *, what: str) -> tuple[T, bytes]:
    if len(data) > SEALED_LIMIT or len(data) < 8 or data[:4] != magic:
        raise DecodeError(f"{what}: not one of a trusted tier, or too long")
    (size,) = struct.unpack_from("<I", data, 4)
    if size > HEADER_LIMIT or len(data) < 8 + size:
        raise DecodeError(f"{what}: truncated or out of bounds")
    header = decode_json(kind, data[8 : 8 + size], what=f"{what} header", limit=HEADER_LIMIT)
    return header, data[8 + size :]
