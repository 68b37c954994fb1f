"""Leases: random names for places in a round, that the back end recognises without having kept them.

A lease is the round's random id, 18 random bytes and a tag that only the holder of the round's
secret could have made. Nothing is stored when it is given out, so there is no row that could be
joined with the check-in that asked for it; it is first written down when its report arrives.

The parts add up to 42 bytes, which base64 turns into 56 characters without padding or spare bits: two
different texts never stand for the same lease, so one lease cannot carry two reports.
"""

from __future__ import annotations

import base64
import hmac
import re
import secrets
from hashlib import blake2b
from typing import Final

ROUND_ID_BYTES: Final = 8
LEASE_KEY_BYTES: Final = 32
_RANDOM_BYTES: Final = 18
_TAG_BYTES: Final = 16
LEASE_CHARACTERS: Final = (ROUND_ID_BYTES + _RANDOM_BYTES + _TAG_BYTES) * 4 // 3
# The decoder would also take "+" for "-" and "/" for "_".
_LEASE = re.compile(rf"[A-Za-z0-9_-]{{{LEASE_CHARACTERS}}}\Z")


def new_lease(round_id: bytes, key: bytes) -> str:
    """Return a fresh lease for a place in a round.

    Parameters
    ----------
    round_id : bytes
        The round's random id, 8 bytes.
    key : bytes
        The round's secret, 32 bytes.
    """
    name = round_id + secrets.token_bytes(_RANDOM_BYTES)
    return base64.urlsafe_b64encode(name + _tag(name, key)).decode("ascii")


def round_of(lease: str) -> bytes | None:
    """Return the id of the round that a lease claims to be for, or None if it is no lease at all."""
    raw = _decode(lease)
    return None if raw is None else raw[:ROUND_ID_BYTES]


def is_genuine(lease: str, key: bytes) -> bool:
    """Say whether :func:`new_lease` made this lease with the round's secret."""
    raw = _decode(lease)
    if raw is None:
        return False
    return hmac.compare_digest(raw[-_TAG_BYTES:], _tag(raw[:-_TAG_BYTES], key))


def _tag(name: bytes, key: bytes) -> bytes:
    # Keyed BLAKE2 (RFC 7693, section 2.9) is a message authentication code by itself.
    return blake2b(name, key=key, digest_size=_TAG_BYTES, person=b"pocketfl lease 1").digest()


def _decode(lease: str) -> bytes | None:
    return base64.urlsafe_b64decode(lease) if _LEASE.match(lease) else None
