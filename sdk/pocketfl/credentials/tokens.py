"""What goes over the wire: publicly verifiable tokens of RFC 9578, section 6 (token type 2).

A token is bound to a task and its rounds by its challenge, and to the key that signed it by the key's
id.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from typing import Final

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey, RSAPublicNumbers

from pocketfl.credentials.blind_rsa import MODULUS_BYTES, blind, finalize, is_signature
from pocketfl.errors import CredentialError

TOKEN_TYPE: Final = 2
ISSUER: Final = "pocketfl"
NONCE_BYTES: Final = 32
TOKEN_BYTES: Final = 2 + 3 * 32 + MODULUS_BYTES
REQUEST_BYTES: Final = 2 + 1 + MODULUS_BYTES
RESPONSE_BYTES: Final = MODULUS_BYTES

_TYPE: Final = TOKEN_TYPE.to_bytes(2, "big")
# SubjectPublicKeyInfo of an RSASSA-PSS key of 2048 bits with SHA-384, MGF1 with SHA-384 and a salt
# of 48 bytes, up to the modulus; the exponent 65537 follows it.
_KEY_HEAD: Final = bytes.fromhex(
    "30820152303d06092a864886f70d01010a3030a00d300b0609608648016503040202a11a301806092a864886f70d01"
    "0108300b0609608648016503040202a2030201300382010f003082010a0282010100"
)
_KEY_TAIL: Final = bytes.fromhex("0203010001")
_EXPONENT: Final = 65537


def encode_key(public_key: RSAPublicKey) -> bytes:
    """Return a key as RFC 9578, section 6.5, has it: SubjectPublicKeyInfo for RSASSA-PSS, in DER.

    Raises
    ------
    CredentialError
        If it has not 2048 bits and the exponent 65537.
    """
    numbers = public_key.public_numbers()
    if numbers.n.bit_length() != 8 * MODULUS_BYTES or numbers.e != _EXPONENT:
        raise CredentialError("a token key has 2048 bits and the exponent 65537")
    return _KEY_HEAD + numbers.n.to_bytes(MODULUS_BYTES, "big") + _KEY_TAIL


@lru_cache(maxsize=64)
def decode_key(data: bytes) -> RSAPublicKey:
    """Read what :func:`encode_key` made, and nothing else.

    Raises
    ------
    CredentialError
        If it is anything else.
    """
    end = len(_KEY_HEAD) + MODULUS_BYTES
    modulus = int.from_bytes(data[len(_KEY_HEAD) : end], "big")
    if (data[: len(_KEY_HEAD)], data[end:]) != (_KEY_HEAD, _KEY_TAIL) or not modulus & 1:
        raise CredentialError("this is no token key: RSASSA-PSS, 2048 bits, SHA-384")
    try:
        return RSAPublicNumbers(_EXPONENT, modulus).public_key()
    except ValueError as error:
        raise CredentialError(f"the token key cannot be used ({error})") from None


def challenge(task: str, first_round: int, last_round: int) -> bytes:
    """Return the challenge that tokens of an epoch answer (RFC 9577, section 2.1.1).

    Its redemption context is the SHA-256 of the task and the epoch's rounds, both ends included, so a
    token is good for no other.
    """
    name = ISSUER.encode()
    rounds = str(first_round) if first_round == last_round else f"{first_round}-{last_round}"
    context = sha256(b"pocketfl round 1" + task.encode() + b"\0" + rounds.encode()).digest()
    return _TYPE + len(name).to_bytes(2, "big") + name + b"\x20" + context + b"\0\0"


@dataclass(frozen=True, kw_only=True, repr=False)
class TokenRequest:
    """A token that waits for its signature; never printed.

    Attributes
    ----------
    data : bytes
        What is sent: type, the last byte of the key's id, and the blinded token.
    token_input : bytes
        What the signature will be for.
    inverse : int
        Takes the blinding off.
    """

    data: bytes
    token_input: bytes
    inverse: int


def request_token(
    key: bytes,
    challenge_data: bytes,
    *,
    nonce: bytes | None = None,
    salt: bytes | None = None,
    factor: int | None = None,
) -> TokenRequest:
    """Make a request for a token (RFC 9578, section 6.1).

    Parameters
    ----------
    key : bytes
        The signer's, encoded.
    challenge_data : bytes
        What :func:`challenge` returned.
    nonce, salt, factor : optional
        Drawn here unless a test brings its own.

    Raises
    ------
    CredentialError
        If the key cannot be used.
    """
    key_id = sha256(key).digest()
    own = secrets.token_bytes(NONCE_BYTES) if nonce is None else nonce
    token_input = _TYPE + own + sha256(challenge_data).digest() + key_id
    blinded = blind(decode_key(key), token_input, salt=salt, factor=factor)
    return TokenRequest(
        data=_TYPE + key_id[-1:] + blinded.message,
        token_input=token_input,
        inverse=blinded.inverse,
    )


def finish_token(key: bytes, request: TokenRequest, response: bytes) -> bytes:
    """Return the token from a request and its answer (RFC 9578, section 6.3).

    Raises
    ------
    CredentialError
        If the answer is no signature of the request.
    """
    signature = finalize(decode_key(key), request.token_input, response, inverse=request.inverse)
    return request.token_input + signature


def read_request(data: bytes, key: bytes) -> bytes:
    """Return the blinded message of a request, for the signer (RFC 9578, section 6.2).

    Raises
    ------
    CredentialError
        If it is no request for a token of this key.
    """
    if len(data) != REQUEST_BYTES or data[:2] != _TYPE:
        raise CredentialError(
            f"a token request has {REQUEST_BYTES} bytes and the type {TOKEN_TYPE}"
        )
    if data[2] != sha256(key).digest()[-1]:
        raise CredentialError("the token request is for another key")
    return data[3:]


def verify_token(token: bytes, key: bytes, challenge_data: bytes) -> bytes:
    """Return a token's nonce if this key signed it for this challenge (RFC 9578, section 6.4).

    Raises
    ------
    CredentialError
        Saying what is wrong. Whether the nonce was used before is for the caller to know.
    """
    if len(token) != TOKEN_BYTES or token[:2] != _TYPE:
        raise CredentialError(f"a token has {TOKEN_BYTES} bytes and the type {TOKEN_TYPE}")
    nonce, digest, key_id = token[2:34], token[34:66], token[66:98]
    if digest != sha256(challenge_data).digest():
        raise CredentialError("the token is for another task or other rounds")
    if key_id != sha256(key).digest():
        raise CredentialError("the token is signed with another key")
    if not is_signature(decode_key(key), token[:98], token[98:]):
        raise CredentialError("the token's signature is wrong")
    return nonce
