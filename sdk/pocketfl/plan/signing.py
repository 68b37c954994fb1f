"""Ed25519 keys of modellers (RFC 8032): the private half signs plans and never reaches a server."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from pocketfl.errors import PlanError, PlanSignatureError

PUBLIC_KEY_BYTES = 32
SIGNATURE_BYTES = 64


def generate_signing_key() -> Ed25519PrivateKey:
    """Return a new private key."""
    return Ed25519PrivateKey.generate()


def save_signing_key(key: Ed25519PrivateKey, path: str | Path) -> None:
    """Write a private key as PEM (PKCS #8), readable by its owner only.

    Raises
    ------
    FileExistsError
        If the file exists: overwriting a signing key would orphan every plan that it signed.
    """
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(pem)


def load_signing_key(path: str | Path) -> Ed25519PrivateKey:
    """Read a private key that :func:`save_signing_key` or ``openssl genpkey`` wrote.

    Raises
    ------
    PlanError
        If the file is not an unencrypted Ed25519 private key in PEM.
    """
    try:
        key = load_pem_private_key(Path(path).read_bytes(), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise PlanError(f"{path}: not an unencrypted private key in PEM ({error})") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise PlanError(f"{path}: not an Ed25519 key; make one with 'pocketfl plan keygen'")
    return key


def public_key_hex(key: Ed25519PrivateKey | Ed25519PublicKey) -> str:
    """Return the public key as 64 hex digits: what apps and servers are told to trust."""
    public = key.public_key() if isinstance(key, Ed25519PrivateKey) else key
    return public.public_bytes(Encoding.Raw, PublicFormat.Raw).hex()


def parse_public_keys(keys: Iterable[str | bytes]) -> frozenset[bytes]:
    """Return raw public keys from 64 hex digits or 32 bytes each.

    Raises
    ------
    PlanError
        If one has another form, or if there is none: trusting no key would refuse every plan and
        trusting any would verify nothing.
    """
    if isinstance(keys, (str, bytes)):
        keys = [keys]
    parsed = set()
    for key in keys:
        try:
            raw = bytes.fromhex(key) if isinstance(key, str) else bytes(key)
        except ValueError:
            raw = b""
        if len(raw) != PUBLIC_KEY_BYTES:
            raise PlanError(f"trusted key {key!r} is not 32 bytes or 64 hex digits")
        parsed.add(raw)
    if not parsed:
        raise PlanError("no trusted keys given: pass the public key of the plan's modeller")
    return frozenset(parsed)


def verify_signature(
    message: bytes, *, public_key: bytes, signature: bytes, trusted_keys: frozenset[bytes]
) -> None:
    """Check that a trusted key signed exactly these bytes.

    Raises
    ------
    PlanSignatureError
        If the key is not trusted or the signature does not fit.
    """
    if public_key not in trusted_keys:
        raise PlanSignatureError(
            f"the plan is signed by {public_key.hex()}, which is not one of the "
            f"{len(trusted_keys)} trusted keys"
        )
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, message)
    except (InvalidSignature, ValueError):
        raise PlanSignatureError(
            "the signature does not fit the manifest: the plan was changed after it was signed"
        ) from None
