"""Is this key a trusted tier's? Tokens of attestation services, and the trusted tier's ledger head.

A trusted tier asks the attestation service of its platform for a token that vouches for its image, its
debug state and two values that it chooses: one binds its HPKE key to a privacy policy, the other
the head of its ledger. :class:`AttestedAggregator` checks all of it on the device before it seals.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pocketfl.attestation.issuers import TrustedIssuer as TrustedIssuer
    from pocketfl.attestation.verifier import AttestedAggregator as AttestedAggregator

# An app that pins keys needs no token library, nor the memory that it takes.
_HOMES = {
    "AttestedAggregator": "pocketfl.attestation.verifier",
    "TrustedIssuer": "pocketfl.attestation.issuers",
}

__all__ = sorted(_HOMES)  # noqa: PLE0605 - names come from the table above


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'pocketfl.attestation' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
