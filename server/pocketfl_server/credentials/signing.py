"""Blind RSA signatures, the signer's half (RFC 9474, section 4.3)."""

from __future__ import annotations

import math
import secrets

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

from pocketfl.credentials.blind_rsa import MODULUS_BYTES
from pocketfl.errors import CredentialError


def blind_sign(private_key: RSAPrivateKey, blinded: bytes) -> bytes:
    """Sign a blinded message without learning what it is.

    Python's big numbers take a time that depends on their values, and whoever asks chooses the message.
    So it is blinded once more here, with a factor that nobody outside knows, before the private key
    touches it (RFC 9474, section 7.1). The result is checked before it leaves: a wrong one, from a
    fault of the machine, would give the key's factors away.

    Parameters
    ----------
    private_key : RSAPrivateKey
        Of 2048 bits.
    blinded : bytes
        256 bytes.

    Returns
    -------
    bytes
        The blind signature, 256 bytes.

    Raises
    ------
    CredentialError
        If the message is not one that the key can sign.
    """
    numbers = private_key.private_numbers()
    modulus, exponent = numbers.public_numbers.n, numbers.public_numbers.e
    message = int.from_bytes(blinded, "big")
    if (
        len(blinded) != MODULUS_BYTES
        or not 0 < message < modulus
        or math.gcd(message, modulus) != 1
    ):
        raise CredentialError("the blinded message is out of range for this key")
    factor = secrets.randbelow(modulus - 2) + 2
    hidden = message * pow(factor, exponent, modulus) % modulus
    first = pow(hidden % numbers.p, numbers.dmp1, numbers.p)
    second = pow(hidden % numbers.q, numbers.dmq1, numbers.q)
    joined = second + (first - second) * numbers.iqmp % numbers.p * numbers.q
    signature = joined * pow(factor, -1, modulus) % modulus
    if pow(signature, exponent, modulus) != message:
        raise CredentialError("signing failed: the key or this machine is damaged")
    return signature.to_bytes(MODULUS_BYTES, "big")
