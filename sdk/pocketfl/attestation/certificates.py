"""From a token's own certificate chain to the key that signed it, by way of a pinned root."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any, Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.serialization import Encoding

from pocketfl.errors import AggregatorRefusedError

MAX_CHAIN: Final = 5
MAX_CERTIFICATE_CHARACTERS: Final = 8192


def chain_key(x5c: object, *, roots: Sequence[str], now: float) -> Any:
    """Return the leaf's public key if the chain ends in a pinned root.

    Parameters
    ----------
    x5c : object
        The token's header of that name: base64 DER certificates, the signer's first (RFC 7515, 4.1.6).
    roots : sequence of str
        Pinned root certificates in PEM.
    now : float
        Unix time in seconds; every certificate must be valid then.

    Raises
    ------
    AggregatorRefusedError
        If the chain cannot be read, is broken, expired, or ends in no pinned root.
    """
    if (
        not isinstance(x5c, list)
        or not 0 < len(x5c) <= MAX_CHAIN
        or not all(isinstance(c, str) and len(c) <= MAX_CERTIFICATE_CHARACTERS for c in x5c)
    ):
        raise _refused(f"x5c is no list of 1 to {MAX_CHAIN} certificates")
    try:
        chain = [
            x509.load_der_x509_certificate(base64.b64decode(text, validate=True)) for text in x5c
        ]
    except (binascii.Error, ValueError):
        raise _refused("a certificate cannot be read") from None
    pinned = [x509.load_pem_x509_certificate(root.encode()) for root in roots]
    fingerprints = {certificate.public_bytes(Encoding.DER) for certificate in pinned}
    if chain[-1].public_bytes(Encoding.DER) not in fingerprints:
        # The root itself may be left out of the chain.
        issuer = next((root for root in pinned if root.subject == chain[-1].issuer), None)
        if issuer is None:
            raise _refused("the chain ends in no root that this app pins")
        chain.append(issuer)
    moment = datetime.fromtimestamp(now, UTC)
    for certificate in chain:
        if not certificate.not_valid_before_utc <= moment <= certificate.not_valid_after_utc:
            raise _refused("a certificate is not valid now (or this device's clock is wrong)")
    for below, (certificate, issuer) in enumerate(pairwise(chain)):
        _check_authority(issuer, below=below)
        try:
            certificate.verify_directly_issued_by(issuer)
        except (InvalidSignature, ValueError, TypeError):
            raise _refused("a certificate was not issued by the next one") from None
    return chain[0].public_key()


def _check_authority(certificate: x509.Certificate, *, below: int) -> None:
    """Refuse a certificate that may not issue others; ``below`` counts authorities beneath it."""
    try:
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    except x509.ExtensionNotFound:
        raise _refused("an issuer in the chain is no certificate authority") from None
    if not constraints.ca or (
        constraints.path_length is not None and constraints.path_length < below
    ):
        raise _refused("an issuer in the chain may not have issued the next certificate")


def _refused(reason: str) -> AggregatorRefusedError:
    return AggregatorRefusedError(f"the attestation token's certificates are refused: {reason}")
