"""Sealing a report to the trusted tier's key: HPKE (RFC 9180) in base mode.

The suite is fixed: DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, ChaCha20-Poly1305. What a report belongs
to (:class:`ReportContext`) is HPKE's ``info``, so a report that is moved to another task, round, plan,
model version, policy or lease does not open.

Before anything is sealed, an :class:`AggregatorVerifier` decides whether the key that the back end
relayed is a trusted tier's at all. The default trusts none.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import cache, cached_property, lru_cache
from hashlib import sha256
from typing import Final, Protocol

from pyhpke import AEADId, CipherSuite, KDFId, KEMId, KEMKeyInterface, PyHPKEError

from pocketfl.errors import AggregatorRefusedError, SealingError
from pocketfl.protocol import (
    PROTOCOL,
    AggregatorKey,
    LedgerHead,
    check_digest,
    check_identifier,
    check_token,
)

KEY_BYTES: Final = 32
"""Length of a raw X25519 key, private or public, and of HPKE's encapsulated key."""
TAG_BYTES: Final = 16
SEALING_OVERHEAD: Final = KEY_BYTES + TAG_BYTES
"""Bytes that sealing adds to a plaintext."""

_INFO_LABEL: Final = b"pocketfl report context 1"


@dataclass(frozen=True, kw_only=True)
class ReportContext:
    """What a report belongs to; the trusted tier opens it only under the same context.

    Attributes
    ----------
    protocol : str
        Version of the device protocol.
    key_id : str
        SHA-256 (hex) of the trusted tier's raw public key.
    policy_hash : str
        ``Manifest.policy_hash``: the privacy policy that the device agreed to.
    plan_sha256 : str
        SHA-256 (hex) of the plan's archive.
    task : str
        Name of the task.
    round : int
        From 1.
    model_version : int
        Version that training started from.
    clip_norm : float or None
        Of the round, where the plan lets it adapt: reports of another grid do not add up.
    lease : str
        The one lease under which the report may be counted.
    """

    protocol: str = PROTOCOL
    key_id: str
    policy_hash: str
    plan_sha256: str
    task: str
    round: int
    model_version: int
    clip_norm: float | None = None
    lease: str

    def __post_init__(self) -> None:
        check_digest(self.key_id, what="key_id")
        check_digest(self.policy_hash, what="policy_hash")
        check_digest(self.plan_sha256, what="plan_sha256")
        check_identifier(self.task, what="task")
        check_token(self.lease, what="lease")
        if not 0 < len(self.protocol) <= 64:
            raise ValueError("protocol needs a name of 1 to 64 characters")
        if not (1 <= self.round < 2**63 and 0 <= self.model_version < 2**63):
            raise ValueError("round counts from 1 and model_version from 0")

    def info(self) -> bytes:
        """Return the canonical bytes: different contexts never give the same ones.

        Every field in the order above, numbers as decimal text, each preceded by its length in four
        big-endian bytes, all after a fixed label; a field that is None is left out.
        """
        return b"".join(self._frames())

    def info_for(self, lease: str) -> bytes:
        """Return the bytes of the same context with another lease: the last of its fields."""
        return self._shared + _frame(lease)

    @cached_property
    def _shared(self) -> bytes:
        return self.info()[: -len(_frame(self.lease))]

    def _frames(self) -> Iterator[bytes]:
        yield _INFO_LABEL
        for field in fields(self):
            value = getattr(self, field.name)
            if value is not None:
                yield _frame(str(value))


def _frame(text: str) -> bytes:
    data = text.encode()
    return len(data).to_bytes(4, "big") + data


@cache
def _suite() -> CipherSuite:
    return CipherSuite.new(
        KEMId.DHKEM_X25519_HKDF_SHA256, KDFId.HKDF_SHA256, AEADId.CHACHA20_POLY1305
    )


@lru_cache(maxsize=64)
def _public_key(raw: bytes) -> KEMKeyInterface:
    return _suite().kem.deserialize_public_key(raw)


def generate_key_pair() -> tuple[bytes, bytes]:
    """Return a fresh X25519 key pair as raw bytes: (private, public), 32 bytes each."""
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

    private = X25519PrivateKey.generate()
    return private.private_bytes_raw(), private.public_key().public_bytes_raw()


def key_id(public_key: bytes) -> str:
    """Return the id of a raw public key: its SHA-256 in hex."""
    return sha256(public_key).hexdigest()


def seal(public_key: bytes, *, info: bytes, plaintext: bytes) -> bytes:
    """Seal a plaintext to a public key (RFC 9180, section 6.1, base mode, no additional data).

    Parameters
    ----------
    public_key : bytes
        Raw X25519 public key, 32 bytes.
    info : bytes
        What the plaintext belongs to; opening needs the same bytes.
    plaintext : bytes
        What to hide.

    Returns
    -------
    bytes
        Encapsulated key (32 bytes), then ciphertext and tag: :data:`SEALING_OVERHEAD` more than the
        plaintext.

    Raises
    ------
    SealingError
        If the key is not a usable X25519 public key.
    """
    if len(public_key) != KEY_BYTES:
        raise SealingError(f"an X25519 public key has {KEY_BYTES} bytes, not {len(public_key)}")
    try:
        encapsulated, context = _suite().create_sender_context(_public_key(public_key), info)
        return encapsulated + context.seal(plaintext)
    except (PyHPKEError, ValueError) as error:
        raise SealingError(f"the public key cannot be used for sealing ({error})") from None


def open_sealed(private_key: bytes, *, info: bytes, sealed: bytes) -> bytes:
    """Open what :func:`seal` made; only the trusted tier has the key for it.

    Parameters
    ----------
    private_key : bytes
        Raw X25519 private key, 32 bytes.
    info : bytes
        The same bytes that were given to :func:`seal`.
    sealed : bytes
        Encapsulated key, ciphertext and tag.

    Returns
    -------
    bytes
        The plaintext.

    Raises
    ------
    SealingError
        If key, context or bytes differ from what was sealed. Which of them is not known.
    """
    if len(private_key) != KEY_BYTES:
        raise SealingError(f"an X25519 private key has {KEY_BYTES} bytes, not {len(private_key)}")
    if len(sealed) < SEALING_OVERHEAD:
        raise SealingError(f"{len(sealed)} bytes are too few for a sealed report")
    suite = _suite()
    try:
        key = suite.kem.deserialize_private_key(private_key)
        context = suite.create_recipient_context(sealed[:KEY_BYTES], key, info)
        return context.open(sealed[KEY_BYTES:])
    except (PyHPKEError, ValueError):
        raise SealingError(
            "the report does not open: sealed to another key, for another context, or changed"
        ) from None


class AggregatorVerifier(Protocol):
    """Decides whether a relayed public key belongs to a trusted tier that this device trusts.

    Attributes
    ----------
    evidence : str
        What is checked before a key is believed, in a few words, for receipts.
    """

    @property
    def evidence(self) -> str:
        """What is checked before a key is believed, in a few words, for receipts."""

    def verify(self, key: AggregatorKey, *, policy_hash: str, plan_sha256: str) -> bytes:
        """Return the raw public key to seal to.

        Parameters
        ----------
        key : AggregatorKey
            As the back end relayed it.
        policy_hash, plan_sha256 : str
            What the trusted tier has to hold itself to, for verifiers whose evidence names it.

        Returns
        -------
        bytes
            32 bytes.

        Raises
        ------
        AggregatorRefusedError
            If the key is not trusted.
        """


class RefuseEveryAggregator:
    """Trusts no key: what a device does until its app names a trusted tier."""

    evidence: Final = "none: every key is refused"

    def verify(self, key: AggregatorKey, *, policy_hash: str, plan_sha256: str) -> bytes:
        """Refuse."""
        del policy_hash, plan_sha256
        raise AggregatorRefusedError(
            f"no trusted tier is configured, so the key {key.key_id[:16]} is refused; give the device "
            "an aggregator such as PinnedAggregator(public_key_in_hex)"
        )

    def verify_token_keys(self, key: AggregatorKey, *, policy_hash: str, head: LedgerHead) -> None:
        """Refuse."""
        del head
        self.verify(key, policy_hash=policy_hash, plan_sha256="")


class PinnedAggregator:
    """Trusts the public keys that the app was built with.

    Parameters
    ----------
    *public_keys : str
        Raw X25519 public keys in hex, 64 digits each.
    """

    evidence: Final = "pinned key"

    def __init__(self, *public_keys: str) -> None:
        if not public_keys:
            raise ValueError("PinnedAggregator needs at least one public key in hex")
        self._keys = frozenset(check_digest(key.lower(), what="public key") for key in public_keys)

    def verify(self, key: AggregatorKey, *, policy_hash: str, plan_sha256: str) -> bytes:
        """Return the raw public key if it is pinned and its id is right."""
        del policy_hash, plan_sha256
        raw = bytes.fromhex(key.public_key)
        if key_id(raw) != key.key_id:
            raise AggregatorRefusedError(
                "the trusted tier's key id is not the hash of its public key"
            )
        if key.public_key not in self._keys:
            raise AggregatorRefusedError(
                f"the trusted tier's key {key.public_key[:16]}... is not one of the "
                f"{len(self._keys)} that this app pins"
            )
        return raw
