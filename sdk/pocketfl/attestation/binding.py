"""The values that a token vouches for, computed alike by the device and the trusted tier."""

from __future__ import annotations

from hashlib import sha256
from typing import Final

from pocketfl.protocol import LedgerHead

_HEAD_LABEL: Final = b"pocketfl ledger head 1"
_TOKEN_KEYS_LABEL: Final = b"pocketfl token keys 1"


def key_nonce(public_key: bytes, policy_hash: str) -> str:
    """Return the nonce that binds a key to a policy: SHA-256 of both, in hex.

    Parameters
    ----------
    public_key : bytes
        Raw X25519 public key, 32 bytes.
    policy_hash : str
        ``Manifest.policy_hash``, 64 hex digits; its 32 bytes go into the hash.

    Returns
    -------
    str
        64 hex digits, which every attestation service takes as a nonce.
    """
    return sha256(public_key + bytes.fromhex(policy_hash)).hexdigest()


def head_nonce(public_key: bytes, head: LedgerHead) -> str:
    """Return the nonce that binds a ledger's head to the key: SHA-256, in hex.

    Parameters
    ----------
    public_key : bytes
        Raw X25519 public key, 32 bytes.
    head : LedgerHead
        How many releases the ledger has, and the digest that chains them.
    """
    return _nonce_of(_HEAD_LABEL, public_key, head)


def token_keys_nonce(public_key: bytes, head: LedgerHead) -> str:
    """Return the nonce that binds a task's directory of token keys to its key: SHA-256, in hex.

    Parameters
    ----------
    public_key : bytes
        Raw X25519 public key, 32 bytes.
    head : LedgerHead
        How many keys the directory has, and the digest that chains them; see
        :mod:`pocketfl.credentials.directory`.
    """
    return _nonce_of(_TOKEN_KEYS_LABEL, public_key, head)


def _nonce_of(label: bytes, public_key: bytes, head: LedgerHead) -> str:
    content = public_key + head.sequence.to_bytes(8, "big") + bytes.fromhex(head.digest)
    return sha256(label + content).hexdigest()
