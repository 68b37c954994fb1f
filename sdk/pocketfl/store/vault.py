"""Where the device's own key lies, which locks the keys of the collections.

Every collection has a random key of its own, kept in the store only in wrapped form. Unwrapping takes
the device's key, which a vault never gives away.
"""

from __future__ import annotations

import os
import secrets
import sys
import threading
from hashlib import sha256
from pathlib import Path
from typing import Final, Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from pocketfl.errors import KeyUnavailableError
from pocketfl.file_lock import locked_file

_MAGIC: Final = b"PFL device key 1\n"
_KEY_BYTES: Final = 32
_CHECK_BYTES: Final = 8
_NONCE_BYTES: Final = 12


class KeyVault(Protocol):
    """Wraps and unwraps the keys of collections with a key that stays inside."""

    def wrap(self, key: bytes, *, context: bytes) -> bytes:
        """Encrypt a key, making the vault's own key if there is none yet.

        Parameters
        ----------
        key : bytes
            What to keep secret.
        context : bytes
            What the key is for; unwrapping for anything else fails.

        Raises
        ------
        KeyUnavailableError
            If the vault cannot be used.
        """
        ...

    def unwrap(self, wrapped: bytes, *, context: bytes) -> bytes:
        """Return the key that :meth:`wrap` encrypted.

        Raises
        ------
        KeyUnavailableError
            If the vault's key is gone, is another one, or the wrapped key was changed.
        """
        ...


class FileKeyVault:
    """The device's key in a file that only its owner may read.

    It protects a store whose file gets out without this one (a backup, a support upload); it cannot
    protect against whoever reads the app's private files. Several stores may share a vault.

    Parameters
    ----------
    path : str or Path
        The key file; made when a first key is wrapped.
    """

    def __init__(self, path: str | Path) -> None:
        self.path: Final = Path(path)
        self._lock = threading.Lock()
        self._cipher: AESGCM | None = None

    def wrap(self, key: bytes, *, context: bytes) -> bytes:
        """See :meth:`KeyVault.wrap`."""
        nonce = secrets.token_bytes(_NONCE_BYTES)
        return nonce + self._open(make=True).encrypt(nonce, key, context)

    def unwrap(self, wrapped: bytes, *, context: bytes) -> bytes:
        """See :meth:`KeyVault.unwrap`."""
        cipher = self._open(make=False)
        try:
            return cipher.decrypt(wrapped[:_NONCE_BYTES], wrapped[_NONCE_BYTES:], context)
        except (InvalidTag, ValueError):
            raise KeyUnavailableError(
                f"the key in {self.path} does not open this collection: put back the key file that "
                "belongs to the store, or revoke() the collection to start afresh"
            ) from None

    def _open(self, *, make: bool) -> AESGCM:
        with self._lock:
            if self._cipher is None:
                try:
                    self._cipher = AESGCM(self._read_or_make() if make else self._read())
                except OSError as error:
                    raise KeyUnavailableError(
                        f"cannot read the key file {self.path}: {error.strerror}; put it back, or "
                        "revoke() the collection to start afresh"
                    ) from error
            return self._cipher

    def _read(self) -> bytes:
        key = self._parse(self.path.read_bytes())
        if os.name == "posix" and self.path.stat().st_mode & 0o077:
            # A copy of the folder may have lost the rights; what leaked before cannot be undone.
            self.path.chmod(0o600)
        return key

    def _read_or_make(self) -> bytes:
        # The lock makes racing processes agree; a file left empty by one that died is written anew.
        with locked_file(self.path) as descriptor:
            if os.fstat(descriptor).st_size == 0:
                key = secrets.token_bytes(_KEY_BYTES)
                os.write(descriptor, _MAGIC + key + sha256(_MAGIC + key).digest()[:_CHECK_BYTES])
                os.fsync(descriptor)
        return self._read()

    def _parse(self, content: bytes) -> bytes:
        body, check = content[:-_CHECK_BYTES], content[-_CHECK_BYTES:]
        if (
            len(content) != len(_MAGIC) + _KEY_BYTES + _CHECK_BYTES
            or not body.startswith(_MAGIC)
            or sha256(body).digest()[:_CHECK_BYTES] != check
        ):
            raise KeyUnavailableError(
                f"the key file {self.path} is damaged: put back a copy; without one, delete it and "
                "revoke() the collections to start afresh"
            )
        return body[len(_MAGIC) :]


def default_vault(store: Path) -> KeyVault:
    """Return the platform's vault: Android's keystore on Android, elsewhere a file beside the store."""
    if hasattr(sys, "getandroidapilevel"):
        from pocketfl.store.android_keystore import AndroidKeyVault

        return AndroidKeyVault()
    return FileKeyVault(store.with_name(store.name + "-key"))
