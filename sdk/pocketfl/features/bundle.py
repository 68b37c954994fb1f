"""Transform bundles: what was learned about features, versioned and signed, for every plan to use.

A modeller learns ranges or moments with private queries once and puts the transforms that follow from
them into a bundle. Plans are made from it (:meth:`TransformBundle.apply`): the numbers become part of
the plan's own features, which the same code reads in training, evaluation and inference, and the plan
says which bundle they came from.

A bundle's bytes are a magic line, the signer's public key (32 bytes), an Ed25519 signature (64 bytes)
over what follows, and that: the bundle as canonical JSON.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from pocketfl.checks import require
from pocketfl.decoding import decode_json, encode_json
from pocketfl.errors import DecodeError, FeatureError
from pocketfl.features.transforms import (
    BundleReference,
    FeatureSpec,
    InputSpec,
    LogScale,
    Scale,
    Source,
    Standardise,
    Transform,
)
from pocketfl.plan.signing import (
    PUBLIC_KEY_BYTES,
    SIGNATURE_BYTES,
    parse_public_keys,
    public_key_hex,
    verify_signature,
)

BUNDLE_LIMIT: Final = 2**20
"""Largest bundle in bytes."""
MAX_TRANSFORMS: Final = 4096

_MAGIC: Final = b"PFL transforms 1\n"
_HEADER_BYTES: Final = len(_MAGIC) + PUBLIC_KEY_BYTES + SIGNATURE_BYTES
_LEARNED: Final = (Scale, LogScale, Standardise)
_DIGEST: Final = re.compile(r"[0-9a-f]{64}\Z")


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """The release that a bundle was learned from, and what it cost.

    Attributes
    ----------
    plan_sha256 : str
        The analytics plan, SHA-256 (hex) of its archive.
    reports : int
        Devices in the sum.
    epsilon, delta : float
        Of the release alone.
    """

    plan_sha256: str
    reports: int
    epsilon: float
    delta: float

    def __post_init__(self) -> None:
        require(bool(_DIGEST.match(self.plan_sha256)), "plan_sha256 is not 64 hex digits")
        require(self.reports >= 1, "a release has at least one report")
        require(
            self.epsilon > 0 and math.isfinite(self.epsilon) and 0 < self.delta < 1,
            "epsilon and delta must be above 0, and delta below 1",
        )


@dataclass(frozen=True, kw_only=True)
class TransformBundle:
    """Learned transforms, by the field that they read.

    Attributes
    ----------
    name, version : str
        The modeller's name; a plan made from the bundle repeats both.
    transforms : tuple of Scale, LogScale or Standardise
        One per field of a source.
    evidence : tuple of Evidence
        What they were learned from; empty for numbers that are public anyway.
    """

    name: str
    version: str
    transforms: tuple[Scale | LogScale | Standardise, ...]
    evidence: tuple[Evidence, ...] = ()

    def __post_init__(self) -> None:
        # The reference checks the two names.
        BundleReference(name=self.name, version=self.version, sha256="0" * 64)
        require(
            0 < len(self.transforms) <= MAX_TRANSFORMS,
            f"a bundle has 1 to {MAX_TRANSFORMS} transforms",
        )
        places = [(transform.source, transform.field) for transform in self.transforms]
        require(len(set(places)) == len(places), "two transforms of a bundle read the same field")
        require(len(self.evidence) <= 64, "a bundle names at most 64 releases")

    @property
    def sha256(self) -> str:
        """SHA-256 (hex) of the bundle's JSON, whoever signs it."""
        return sha256(encode_json(self)).hexdigest()

    @property
    def reference(self) -> BundleReference:
        """What a plan says about it."""
        return BundleReference(name=self.name, version=self.version, sha256=self.sha256)

    def apply(self, features: FeatureSpec) -> FeatureSpec:
        """Return features whose numbers are those of the bundle.

        Every ``scale``, ``log_scale`` or ``standardise`` column of a field of the bundle is replaced;
        what it says about missing values stays. Other columns stay as they are.

        Parameters
        ----------
        features : FeatureSpec
            A plan's features with placeholder or public ranges.

        Returns
        -------
        FeatureSpec
            With the bundle's reference.

        Raises
        ------
        FeatureError
            If a transform of the bundle replaces no column: a misspelt field would go unnoticed.
        """
        learned = {(made.source, made.field): made for made in self.transforms}
        used: set[tuple[Source, str]] = set()

        def replace(column: Transform) -> Transform:
            place = (column.source, column.field)
            if not isinstance(column, _LEARNED) or place not in learned:
                return column
            used.add(place)
            return dataclasses.replace(learned[place], missing=column.missing)

        inputs = tuple(
            InputSpec(tensor=made.tensor, columns=tuple(map(replace, made.columns)))
            for made in features.inputs
        )
        for source, name in learned:
            if (source, name) not in used:
                raise FeatureError(
                    f"bundle {self.name!r} has a transform for the {source} field {name!r}, and no "
                    "'scale', 'log_scale' or 'standardise' column reads it"
                )
        return dataclasses.replace(features, inputs=inputs, bundle=self.reference)

    def check(self, features: FeatureSpec) -> None:
        """Refuse features that are not exactly what the bundle makes of them.

        Raises
        ------
        FeatureError
            If the plan names another bundle, or its numbers were changed.
        """
        if features.bundle != self.reference:
            raise FeatureError(
                f"the plan's features come from {features.bundle}, not from {self.reference}"
            )
        if self.apply(features) != features:
            raise FeatureError(
                f"the plan names the bundle {self.name!r} {self.version!r}, but has other numbers"
            )

    def sign(self, key: Ed25519PrivateKey) -> bytes:
        """Return the signed bundle's bytes."""
        body = encode_json(self)
        return _MAGIC + bytes.fromhex(public_key_hex(key)) + key.sign(body) + body

    @classmethod
    def load(cls, source: bytes | Path, *, trusted_keys: Iterable[str | bytes]) -> TransformBundle:
        """Verify a signed bundle and return it.

        Parameters
        ----------
        source : bytes or Path
            What :meth:`sign` made, or a file of it.
        trusted_keys : iterable of str or bytes
            Public keys of modellers.

        Raises
        ------
        PlanSignatureError
            If no trusted key signed exactly these bytes.
        FeatureError
            If they are no bundle, or one that this version cannot read.
        """
        data = _read(source) if isinstance(source, Path) else source
        if not data.startswith(_MAGIC) or not _HEADER_BYTES < len(data) <= BUNDLE_LIMIT:
            raise FeatureError("this is no transform bundle")
        start = len(_MAGIC)
        verify_signature(
            data[_HEADER_BYTES:],
            public_key=data[start : start + PUBLIC_KEY_BYTES],
            signature=data[start + PUBLIC_KEY_BYTES : _HEADER_BYTES],
            trusted_keys=parse_public_keys(trusted_keys),
        )
        try:
            return decode_json(cls, data[_HEADER_BYTES:], what="bundle", limit=BUNDLE_LIMIT)
        except DecodeError as error:
            raise FeatureError(str(error)) from None


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(BUNDLE_LIMIT + 1)
    except OSError as error:
        raise FeatureError(f"cannot read the bundle {path}: {error.strerror}") from None
