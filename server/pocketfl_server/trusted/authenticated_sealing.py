"""Sealing between two trusted tiers: it opens with the one's key and proves the other's.

HPKE in *auth* mode (RFC 9180, section 5.1.3). What is sealed opens only under the ``info`` that it was
sealed under, which says what it is and what it belongs to.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache

from pyhpke import AEADId, CipherSuite, KDFId, KEMId, PyHPKEError

from pocketfl.errors import SealingError
from pocketfl.sealing import KEY_BYTES, SEALING_OVERHEAD


def canonical_info(label: bytes, values: Iterable[str | int]) -> bytes:
    """Return what something is and belongs to: a label, then each value preceded by its length."""
    parts = [label]
    for value in values:
        text = str(value).encode()
        parts += [len(text).to_bytes(4, "big"), text]
    return b"".join(parts)


def seal_between(
    plaintext: bytes, *, recipient_key: bytes, private_key: bytes, info: bytes
) -> bytes:
    """Seal bytes to another tier in this one's name.

    Parameters
    ----------
    plaintext : bytes
        What to seal.
    recipient_key : bytes
        Raw X25519 public key, 32 bytes, that was verified.
    private_key : bytes
        The sender's own, raw.
    info : bytes
        What it is and belongs to.

    Raises
    ------
    SealingError
        If a key cannot be used.
    """
    kem = _suite().kem
    try:
        encapsulated, sender = _suite().create_sender_context(
            kem.deserialize_public_key(recipient_key),
            info,
            sks=kem.deserialize_private_key(private_key),
        )
        return bytes(encapsulated) + bytes(sender.seal(plaintext))
    except (PyHPKEError, ValueError) as error:
        raise SealingError(f"a key cannot be used for sealing ({error})") from None


def open_between(
    sealed: bytes, *, private_key: bytes, sender_key: bytes, info: bytes, what: str
) -> bytes:
    """Open what :func:`seal_between` made; ``what`` is its name for messages.

    Raises
    ------
    SealingError
        If keys, info or bytes differ from what was sealed. Which of them is not known.
    """
    if len(sealed) < SEALING_OVERHEAD:
        raise SealingError(f"{len(sealed)} bytes are too few for a {what}")
    kem = _suite().kem
    try:
        receiver = _suite().create_recipient_context(
            sealed[:KEY_BYTES],
            kem.deserialize_private_key(private_key),
            info,
            pks=kem.deserialize_public_key(sender_key),
        )
        return bytes(receiver.open(sealed[KEY_BYTES:]))
    except (PyHPKEError, ValueError):
        raise SealingError(
            f"the {what} does not open: of another shard, round, task or key, or changed"
        ) from None


@cache
def _suite() -> CipherSuite:
    return CipherSuite.new(
        KEMId.DHKEM_X25519_HKDF_SHA256, KDFId.HKDF_SHA256, AEADId.CHACHA20_POLY1305
    )
