"""Blind RSA signatures, the device's half: RSABSSA-SHA384-PSS-Deterministic of RFC 9474.

The names are those of its section 4. Verification is the ordinary RSASSA-PSS of ``cryptography``; no
library that has an Android build does the blinding itself.
"""

from __future__ import annotations

import math
import secrets
from dataclasses import dataclass
from hashlib import sha384
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.padding import MGF1, PSS
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.hashes import SHA384

from pocketfl.errors import CredentialError

KEY_BITS: Final = 2048
MODULUS_BYTES: Final = KEY_BITS // 8
SALT_BYTES: Final = 48
_HASH_BYTES: Final = 48


@dataclass(frozen=True, kw_only=True, repr=False)
class Blinded:
    """A blinded message, and the secret that takes the blinding off again; never printed.

    Attributes
    ----------
    message : bytes
        What is sent to be signed, 256 bytes.
    inverse : int
        Inverse of the blinding factor modulo the key's modulus.
    """

    message: bytes
    inverse: int


def blind(
    public_key: RSAPublicKey,
    message: bytes,
    *,
    salt: bytes | None = None,
    factor: int | None = None,
) -> Blinded:
    """Encode and blind a message (RFC 9474, section 4.2).

    Parameters
    ----------
    public_key : RSAPublicKey
        The signer's, of 2048 bits.
    message : bytes
        What the signature will be for.
    salt : bytes, optional
        48 random bytes; drawn here unless a test brings its own.
    factor : int, optional
        The blinding factor, below the modulus; likewise.

    Raises
    ------
    CredentialError
        If the key or the factor cannot be used.
    """
    numbers = public_key.public_numbers()
    if public_key.key_size != KEY_BITS:
        raise CredentialError(f"the signer's key has {public_key.key_size} bits, not {KEY_BITS}")
    encoded = int.from_bytes(
        _encode_pss(message, secrets.token_bytes(SALT_BYTES) if salt is None else salt), "big"
    )
    if math.gcd(encoded, numbers.n) != 1:
        raise CredentialError("the signer's key is broken: the message shares a factor with it")
    chosen = secrets.randbelow(numbers.n - 1) + 1 if factor is None else factor
    try:
        inverse = pow(chosen, -1, numbers.n)
    except ValueError:
        raise CredentialError("the signer's key is broken: a factor of it was drawn") from None
    blinded = encoded * pow(chosen, numbers.e, numbers.n) % numbers.n
    return Blinded(message=blinded.to_bytes(MODULUS_BYTES, "big"), inverse=inverse)


def finalize(
    public_key: RSAPublicKey, message: bytes, blind_signature: bytes, *, inverse: int
) -> bytes:
    """Take the blinding off a signature and check it (RFC 9474, section 4.4).

    Parameters
    ----------
    public_key : RSAPublicKey
        The signer's.
    message : bytes
        What :func:`blind` was given.
    blind_signature : bytes
        What the signer answered, 256 bytes.
    inverse : int
        ``Blinded.inverse``.

    Returns
    -------
    bytes
        An ordinary RSASSA-PSS signature of the message, 256 bytes.

    Raises
    ------
    CredentialError
        If the signer did not sign this message with this key.
    """
    if len(blind_signature) != MODULUS_BYTES:
        raise CredentialError(
            f"a blind signature has {MODULUS_BYTES} bytes, not {len(blind_signature)}"
        )
    modulus = public_key.public_numbers().n
    signature = int.from_bytes(blind_signature, "big") * inverse % modulus
    result = signature.to_bytes(MODULUS_BYTES, "big")
    if not is_signature(public_key, message, result):
        raise CredentialError("the back end's signature of the blinded token is wrong")
    return result


def is_signature(public_key: RSAPublicKey, message: bytes, signature: bytes) -> bool:
    """Return whether this is a signature of the message: RSASSA-PSS with SHA-384, salt of 48 bytes."""
    try:
        public_key.verify(signature, message, PSS(MGF1(SHA384()), SALT_BYTES), SHA384())
    except InvalidSignature:
        return False
    return True


def _encode_pss(message: bytes, salt: bytes) -> bytes:
    """Return EMSA-PSS-ENCODE of RFC 8017, section 9.1.1, for a modulus of 2048 bits."""
    hashed = sha384(bytes(8) + sha384(message).digest() + salt).digest()
    block = bytes(MODULUS_BYTES - len(salt) - _HASH_BYTES - 2) + b"\x01" + salt
    mask = _generate_mask(hashed, len(block))
    masked = bytes(a ^ b for a, b in zip(block, mask, strict=True))
    # The encoding has one bit less than the modulus.
    return bytes([masked[0] & 0x7F]) + masked[1:] + hashed + b"\xbc"


def _generate_mask(seed: bytes, length: int) -> bytes:
    """Return MGF1 of RFC 8017, appendix B.2.1."""
    blocks = range(-(-length // _HASH_BYTES))
    mask = b"".join(sha384(seed + counter.to_bytes(4, "big")).digest() for counter in blocks)
    return mask[:length]
