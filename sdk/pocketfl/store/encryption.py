"""Examples at rest: AES-256-GCM with one key per collection.

A nonce is 96 random bits, kept in front of the ciphertext: a store may be copied or put back from a
backup, so a counter would come by again. NIST SP 800-38D (8.3) allows 2^32 such messages under a key,
far more than a device ever writes. What a row is bound to (collection, id, time) is authenticated, so
that no row can be moved, copied or dated anew.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from pocketfl.errors import StoreDamagedError

KEY_BYTES: Final = 32
NONCE_BYTES: Final = 12
OVERHEAD_BYTES: Final = NONCE_BYTES + 16
"""Bytes by which a sealed row is longer than the row."""

_BINDING: Final = struct.Struct("<qqd")

# A damaged file has other types in its columns, too.
_FAILURES: Final = (InvalidTag, ValueError, TypeError, struct.error)


class RowCipher:
    """Seals and opens the rows of one collection.

    Parameters
    ----------
    key : bytes
        32 random bytes, of this collection alone.
    collection : int
        The collection's number in the store.
    """

    def __init__(self, key: bytes, *, collection: int) -> None:
        self._cipher = AESGCM(key)
        self._collection = collection

    def seal(
        self, payloads: Sequence[bytes], *, ids: Sequence[int], times: Sequence[float]
    ) -> list[bytes]:
        """Return ``nonce + ciphertext + tag`` of each row."""
        encrypt, bind, collection = self._cipher.encrypt, _BINDING.pack, self._collection
        # One call of the system's generator for all rows; the slices are independent.
        random = os.urandom(NONCE_BYTES * len(payloads))
        nonces = [random[i : i + NONCE_BYTES] for i in range(0, len(random), NONCE_BYTES)]
        return [
            nonce + encrypt(nonce, payload, bind(collection, row, time))
            for nonce, payload, row, time in zip(nonces, payloads, ids, times, strict=True)
        ]

    def open(
        self, sealed: Sequence[bytes], *, ids: Sequence[int], times: Sequence[float]
    ) -> list[bytes]:
        """Return the rows that :meth:`seal` sealed.

        Raises
        ------
        StoreDamagedError
            If a row, its id or its time is not what was sealed.
        """
        decrypt, bind, collection = self._cipher.decrypt, _BINDING.pack, self._collection
        try:
            return [
                decrypt(data[:NONCE_BYTES], data[NONCE_BYTES:], bind(collection, row, time))
                for data, row, time in zip(sealed, ids, times, strict=True)
            ]
        except _FAILURES:
            raise StoreDamagedError(
                "a stored example is damaged: it is not what was appended"
            ) from None
