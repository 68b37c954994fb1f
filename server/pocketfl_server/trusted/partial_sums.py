"""A shard's partial sum on its way from one trusted tier to another, and how it is sealed.

It is a sum without noise, so nobody in between may read it, and only a trusted tier may make one.
HPKE in *auth* mode (RFC 9180, section 5.1.3) gives both: it opens with the key of the root and proves
the key of the shard. Each side has the other's key vouched for by an attestation token. What the sum
belongs to is HPKE's ``info``: a partial sum that is moved to another round, shard, task, plan or model
version does not open.
"""

from __future__ import annotations

import struct
from collections import Counter
from dataclasses import dataclass, field, fields
from typing import Final

import numpy as np

from pocketfl.decoding import decode_json, encode_json
from pocketfl.errors import DecodeError, SealingError
from pocketfl.protocol import check_digest, check_identifier
from pocketfl.sealing import key_id
from pocketfl_server.trusted.authenticated_sealing import (
    canonical_info,
    open_between,
    seal_between,
)
from pocketfl_server.trusted.releases import HEADER_LIMIT
from pocketfl_server.trusted.summing import PartialSum

_INFO_LABEL: Final = b"pocketfl partial sum 1"
_MAGIC: Final = b"PFP1"
_ROUNDING: Final = 1 + 1e-9
"""Of a norm that is computed in float64."""


@dataclass(frozen=True, kw_only=True)
class PartialSumContext:
    """What a partial sum belongs to.

    Attributes
    ----------
    root_key_id, shard_key_id : str
        SHA-256 (hex) of both tiers' raw public keys for the task.
    shard : str
        Name of the shard.
    policy_hash, plan_sha256, task, round, model_version
        As of the reports in the sum.
    """

    root_key_id: str
    shard_key_id: str
    shard: str
    policy_hash: str
    plan_sha256: str
    task: str
    round: int
    model_version: int

    def __post_init__(self) -> None:
        for name in ("root_key_id", "shard_key_id", "policy_hash", "plan_sha256"):
            check_digest(getattr(self, name), what=name)
        check_identifier(self.shard, what="shard")
        check_identifier(self.task, what="task")

    def info(self) -> bytes:
        """Return the canonical bytes, under which it is sealed."""
        values = [getattr(self, item.name) for item in fields(self)]
        return canonical_info(_INFO_LABEL, values)


@dataclass(frozen=True, kw_only=True)
class _Header:
    accepted: int
    rejected: dict[str, int] = field(default_factory=dict)


def encode_partial_sum(part: PartialSum) -> bytes:
    """Return the plaintext: magic, length of the header, JSON header, little-endian int64."""
    header = encode_json(_Header(accepted=part.accepted, rejected=part.reasons()))
    values = part.total.astype("<i8", copy=False).tobytes()
    return b"".join([_MAGIC, struct.pack("<I", len(header)), header, values])


def decode_partial_sum(
    data: bytes, *, length: int, norm_bound: int, most_reports: int
) -> PartialSum:
    """Read what :func:`encode_partial_sum` made, believing nothing that reports cannot come to.

    Parameters
    ----------
    data : bytes
        An opened partial sum.
    length, norm_bound : int
        Coordinates of a report of the plan, and its largest L2 norm in grid units.
    most_reports : int
        Reports that one round can have.

    Raises
    ------
    DecodeError
        If it is of another form, or no sum of so many reports can be what it says.
    """
    if len(data) < 8 or data[:4] != _MAGIC:
        raise DecodeError("partial sum: not one of a trusted tier")
    (size,) = struct.unpack_from("<I", data, 4)
    if size > HEADER_LIMIT or len(data) != 8 + size + 8 * length:
        raise DecodeError(f"partial sum: {len(data)} bytes do not hold {length} coordinates")
    header = decode_json(_Header, data[8 : 8 + size], what="partial sum", limit=HEADER_LIMIT)
    counts = (header.accepted, *header.rejected.values())
    if min(counts) < 0 or sum(counts) > most_reports:
        raise DecodeError(f"partial sum: counts out of bounds; {most_reports} reports at most")
    total = np.frombuffer(data, dtype="<i8", offset=8 + size).astype(np.int64)
    largest = header.accepted * norm_bound
    # Coordinates first: their norm is then far from overflowing.
    if total.size and (int(total.max()) > largest or int(total.min()) < -largest):
        raise DecodeError("partial sum: a coordinate is above what so many reports come to")
    if float(np.linalg.norm(total.astype(np.float64))) > largest * _ROUNDING:
        raise DecodeError("partial sum: its norm is above what so many reports come to")
    return PartialSum(total=total, accepted=header.accepted, rejected=Counter(header.rejected))


def seal_partial_sum(
    plaintext: bytes, *, root_key: bytes, shard_private_key: bytes, context: PartialSumContext
) -> bytes:
    """Seal a partial sum to the root's key, in the name of the shard's.

    Parameters
    ----------
    plaintext : bytes
        What :func:`encode_partial_sum` made.
    root_key : bytes
        Raw X25519 public key, 32 bytes, that was verified.
    shard_private_key : bytes
        The task's own, raw.
    context : PartialSumContext
        What it belongs to.

    Raises
    ------
    SealingError
        If a key cannot be used.
    """
    if key_id(root_key) != context.root_key_id:
        raise SealingError("the context names another root key")
    return seal_between(
        plaintext, recipient_key=root_key, private_key=shard_private_key, info=context.info()
    )


def open_partial_sum(
    sealed: bytes, *, root_private_key: bytes, shard_key: bytes, context: PartialSumContext
) -> bytes:
    """Open what :func:`seal_partial_sum` made.

    Raises
    ------
    SealingError
        If keys, context or bytes differ from what was sealed. Which of them is not known.
    """
    return open_between(
        sealed,
        private_key=root_private_key,
        sender_key=shard_key,
        info=context.info(),
        what="partial sum",
    )
