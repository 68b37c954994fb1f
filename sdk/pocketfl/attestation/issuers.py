"""Whose tokens a device believes: keys or root certificates that the app was built with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from pocketfl.attestation.claims import Service

DEVELOPMENT_ISSUER: Final = "https://development.pocketfl.invalid"
DEVELOPMENT_IMAGE: Final = "sha256:" + "d" * 64
"""What development tokens say instead of an image's digest: nothing was measured."""
AUDIENCE: Final = "pocketfl-devices"
"""What a trusted tier asks its tokens to be issued for, unless an app and its tier agree otherwise."""


@dataclass(frozen=True, kw_only=True)
class TrustedIssuer:
    """One attestation service, and which of its statements are good enough.

    Attributes
    ----------
    service : {"confidential_space", "azure_sev_snp", "intel_tdx", "development"}
        Which claims its tokens have.
    issuer : str
        The ``iss`` of its tokens, such as ``https://confidentialcomputing.googleapis.com``.
    keys : mapping of str to str
        Pinned signing keys: key id to public key in PEM. Services change these every few weeks; pin
        roots instead where the service signs with certificates.
    roots : tuple of str
        Pinned root certificates in PEM, for tokens that bring their chain (``x5c``).
    images : frozenset of str
        Digests of the images that may hold the key, such as ``sha256:...``; see
        :mod:`~pocketfl.attestation.claims` for what identifies an image on each platform.
    audience : str or None
        The ``aud`` that a token must have; None for services that put none in.
    max_age_seconds : float
        Tokens issued longer ago are refused, whatever they say themselves.
    """

    service: Service
    issuer: str
    keys: Mapping[str, str]
    roots: tuple[str, ...] = ()
    images: frozenset[str]
    audience: str | None = AUDIENCE
    max_age_seconds: float = 86_400.0

    def __post_init__(self) -> None:
        if not self.issuer.startswith("https://"):
            raise ValueError(f"issuer {self.issuer[:60]!r} is no https URL")
        if not self.keys and not self.roots:
            raise ValueError(f"{self.issuer}: pin at least one key or root certificate")
        if not self.images:
            raise ValueError(f"{self.issuer}: allow at least one image digest")
        if not 60 <= self.max_age_seconds <= 7 * 86_400:
            raise ValueError("max_age_seconds lies between a minute and a week")
        if (self.service == "development") != (self.issuer == DEVELOPMENT_ISSUER):
            raise ValueError(
                f"the issuer {DEVELOPMENT_ISSUER} is for the service 'development', and no other is"
            )


def development_issuer(public_key: str) -> TrustedIssuer:
    """Return the issuer of a trusted tier that was started for development.

    Its operator can read every report: the token is signed by the very process that it vouches for, and
    nothing was measured. For local runs and tests only.

    Parameters
    ----------
    public_key : str
        PEM, as the trusted tier wrote it beside its ledger.
    """
    return TrustedIssuer(
        service="development",
        issuer=DEVELOPMENT_ISSUER,
        keys={"development": public_key},
        images=frozenset({DEVELOPMENT_IMAGE}),
    )
