"""The rollout document: channels, shares, the oldest plan that may be used, and the kill switch.

Whoever signs it decides what a fleet predicts with; the back end only hands it on. Its bytes are a
magic line, the signer's public key (32 bytes), an Ed25519 signature (64 bytes, RFC 8032) over the
magic line and what follows, and that: the document as canonical JSON. A document counts up: a device
that has seen one never goes back to an earlier one, so a rollback is a new document, too.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from pocketfl.checks import require
from pocketfl.decoding import decode_json, encode_json
from pocketfl.errors import DecodeError, PlanSignatureError, RolloutError
from pocketfl.plan.signing import (
    PUBLIC_KEY_BYTES,
    SIGNATURE_BYTES,
    public_key_hex,
    verify_signature,
)
from pocketfl.protocol import ROLLOUT_LIMIT, check_digest, check_identifier

STABLE: Final = "stable"
"""The channel of everybody who is in no other one."""
MAX_CHANNELS: Final = 8
MAX_SEQUENCE: Final = 2**53
REASON_LIMIT: Final = 200

# Signed along with the document, so that no other signature of the same key passes for one.
_MAGIC: Final = b"PFL rollout 1\n"
_HEADER_BYTES: Final = len(_MAGIC) + PUBLIC_KEY_BYTES + SIGNATURE_BYTES
_VERSION: Final = re.compile(r"\d{1,9}(\.\d{1,9}){0,3}\Z")
_SALT: Final = re.compile(r"[A-Za-z0-9._-]{0,64}\Z")


@dataclass(frozen=True, kw_only=True)
class RolloutModel:
    """One version of the task's model.

    Attributes
    ----------
    version : int
        As the back end counts them.
    task : str or None
        Which task trained it, where that is another one, such as one of a newer plan.
    plan_sha256, parameters_sha256 : str
        Its parts: under another hash a device takes nothing for this version.
    """

    version: int
    task: str | None = None
    plan_sha256: str
    parameters_sha256: str

    def __post_init__(self) -> None:
        if self.task is not None:
            check_identifier(self.task, what="task")
        require(0 <= self.version < 2**31, "a model version counts from 0")
        check_digest(self.plan_sha256, what="plan_sha256")
        check_digest(self.parameters_sha256, what="parameters_sha256")


@dataclass(frozen=True, kw_only=True)
class Channel:
    """A version for some devices.

    Attributes
    ----------
    name : str
        Apps that are built for this channel, such as those of testers, belong to it.
    share : float
        And so does this share of all other devices, 0 to 1, by each one's own anonymous bucket.
    model : RolloutModel
        What they predict with.
    """

    name: str
    share: float = 0.0
    model: RolloutModel

    def __post_init__(self) -> None:
        check_identifier(self.name, what="channel")
        require(self.name != STABLE, f"the channel {STABLE!r} is the document's own 'stable'")
        require(0 <= self.share <= 1, f"the share of channel {self.name!r} must be 0 to 1")


@dataclass(frozen=True, kw_only=True)
class Rollout:
    """What the devices of a task predict with.

    Attributes
    ----------
    task : str
        Whose model.
    sequence : int
        Counts up with every document of the task.
    stable : RolloutModel or None
        For everybody who is in no channel; None when the model is stopped.
    channels : tuple of Channel
        Asked in order: the first that a device belongs to decides.
    minimum_plan_version : str or None
        Such as ``2`` or ``1.10``: models of a plan with a lower version, or with one that is no number,
        are neither used nor trained.
    stopped : str or None
        The kill switch: why no version may be used or trained at all.
    rolls_back : bool
        Whether devices take what is named at once, without asking their own examples.
    salt : str
        With another one, another part of the fleet is first.
    """

    task: str
    sequence: int
    stable: RolloutModel | None = None
    channels: tuple[Channel, ...] = ()
    minimum_plan_version: str | None = None
    stopped: str | None = None
    rolls_back: bool = False
    salt: str = ""

    def __post_init__(self) -> None:
        check_identifier(self.task, what="task")
        require(1 <= self.sequence <= MAX_SEQUENCE, "the sequence of a rollout counts from 1")
        require(
            (self.stable is None) == (self.stopped is not None),
            "a rollout names a stable model, or says why it is stopped",
        )
        require(not (self.stopped is not None and self.channels), "a stopped model has no channels")
        require(
            len(self.channels) <= MAX_CHANNELS, f"a rollout has {MAX_CHANNELS} channels at most"
        )
        names = [channel.name for channel in self.channels]
        require(len(set(names)) == len(names), "two channels of a rollout have the same name")
        require(
            self.minimum_plan_version is None or bool(_VERSION.match(self.minimum_plan_version)),
            "minimum_plan_version is up to four numbers with dots between them, such as 1.10",
        )
        require(
            self.stopped is None
            or (0 < len(self.stopped) <= REASON_LIMIT and self.stopped.isprintable()),
            f"the reason of a stop needs 1 to {REASON_LIMIT} printable characters",
        )
        require(
            bool(_SALT.match(self.salt)), "a salt has letters, digits, '.', '_', '-'; 64 at most"
        )

    def channel_of(self, *, channel: str, bucket: float) -> Channel | None:
        """Return the channel that a device belongs to; None for the stable model.

        Parameters
        ----------
        channel : str
            What its app is built for.
        bucket : float
            Its number, in [0, 1).
        """
        for candidate in self.channels:
            if candidate.name == channel or bucket < candidate.share:
                return candidate
        return None

    def sign(self, key: Ed25519PrivateKey) -> bytes:
        """Return the signed document.

        Raises
        ------
        RolloutError
            If it is too long.
        """
        body = encode_json(self)
        signed = _MAGIC + bytes.fromhex(public_key_hex(key)) + key.sign(_MAGIC + body) + body
        if len(signed) > ROLLOUT_LIMIT:
            raise RolloutError(f"a rollout has at most {ROLLOUT_LIMIT} bytes, not {len(signed)}")
        return signed


def is_older_plan(version: str, minimum: str) -> bool:
    """Say whether a plan's version is below a minimum, number by number; 1.10 is above 1.9.

    A version that is no number is below every minimum: nobody can tell.
    """
    if not _VERSION.match(version):
        return True
    numbers = [[int(part) for part in text.split(".")] for text in (version, minimum)]
    length = max(map(len, numbers))
    found, least = ([*parts, *[0] * (length - len(parts))] for parts in numbers)
    return found < least


def load_rollout(data: bytes, *, trusted_keys: frozenset[bytes]) -> Rollout:
    """Verify a signed document and return it; nothing of it is parsed before that.

    Parameters
    ----------
    data : bytes
        What :meth:`Rollout.sign` made.
    trusted_keys : frozenset of bytes
        Raw Ed25519 public keys.

    Raises
    ------
    RolloutError
        If no trusted key signed exactly these bytes, or they are no rollout.
    """
    key, signature, body = _split(data)
    try:
        verify_signature(
            _MAGIC + body, public_key=key, signature=signature, trusted_keys=trusted_keys
        )
    except PlanSignatureError:
        whose = "a trusted key" if key in trusted_keys else f"{key.hex()}, which is not trusted,"
        raise RolloutError(
            f"the rollout is signed by {whose} "
            + ("and was changed afterwards" if key in trusted_keys else "and so means nothing here")
        ) from None
    try:
        return decode_json(Rollout, body, what="rollout", limit=ROLLOUT_LIMIT)
    except DecodeError as error:
        raise RolloutError(str(error)) from None


def read_signed(data: bytes) -> tuple[str, Rollout]:
    """Return who signed a document, as 64 hex digits, and the document, without judging the signer.

    Raises
    ------
    RolloutError
        If the signature does not fit, or this is no rollout.
    """
    key, _, _ = _split(data)
    return key.hex(), load_rollout(data, trusted_keys=frozenset({key}))


def _split(data: bytes) -> tuple[bytes, bytes, bytes]:
    """Return public key, signature and body of a signed document."""
    if not data.startswith(_MAGIC) or not _HEADER_BYTES < len(data) <= ROLLOUT_LIMIT:
        raise RolloutError("this is no signed rollout document")
    start = len(_MAGIC)
    middle = start + PUBLIC_KEY_BYTES
    return data[start:middle], data[middle:_HEADER_BYTES], data[_HEADER_BYTES:]
