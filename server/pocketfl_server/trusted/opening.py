"""Opening reports: the receiving half of :mod:`pocketfl.sealing`, in one call of a compiled library.

The device seals with a library that runs on any phone. Here thousands are opened in a second, so the
same RFC 9180 comes from ``cryptography``; tests hold the two against each other.
"""

from __future__ import annotations

from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hpke
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from pocketfl.sealing import SEALING_OVERHEAD, ReportContext

_SUITE: Final = hpke.Suite(hpke.KEM.X25519, hpke.KDF.HKDF_SHA256, hpke.AEAD.CHACHA20_POLY1305)


class Opener:
    """Opens the reports of one round.

    Parameters
    ----------
    private_key : bytes
        Raw X25519 private key, 32 bytes.
    context : ReportContext
        Of any report of the round; its lease does not matter.
    """

    def __init__(self, private_key: bytes, context: ReportContext) -> None:
        self._key = X25519PrivateKey.from_private_bytes(private_key)
        self._context = context

    def open(self, lease: str, sealed: bytes) -> bytes | None:
        """Return a plaintext, or None if the report is of another key, context or lease, or changed."""
        if len(sealed) < SEALING_OVERHEAD:
            return None
        try:
            return _SUITE.decrypt(sealed, self._key, self._context.info_for(lease))
        except (InvalidTag, ValueError):
            return None
