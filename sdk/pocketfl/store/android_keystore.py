"""The device's key in Android's keystore: it never leaves the secure hardware, where there is one.

Imported on Android only; pyjnius comes with the app.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any, Final

from pocketfl.errors import KeyUnavailableError

_PROVIDER: Final = "AndroidKeyStore"
_TRANSFORMATION: Final = "AES/GCM/NoPadding"
_NONCE_BYTES: Final = 12
_TAG_BITS: Final = 128
_KEY_BITS: Final = 256


class AndroidKeyVault:
    """A :class:`~pocketfl.store.vault.KeyVault` on ``AndroidKeyStore``.

    The key works whenever the app runs, also behind the lock screen, as rounds happen at night; it goes
    when the app is uninstalled or its data cleared. The keystore makes the nonces itself.

    Parameters
    ----------
    alias : str
        The key's name in the keystore, which is the app's own.
    autoclass : callable, optional
        Finds a Java class by name; pyjnius's by default.

    Notes
    -----
    Follows https://developer.android.com/privacy-and-security/keystore.
    """

    def __init__(
        self, alias: str = "pocketfl.store", *, autoclass: Callable[[str], Any] | None = None
    ) -> None:
        self._alias = alias
        self._class = autoclass if autoclass is not None else _pyjnius()

    def wrap(self, key: bytes, *, context: bytes) -> bytes:
        """See :meth:`pocketfl.store.vault.KeyVault.wrap`."""
        try:
            cipher = self._class("javax.crypto.Cipher").getInstance(_TRANSFORMATION)
            cipher.init(self._class("javax.crypto.Cipher").ENCRYPT_MODE, self._key(make=True))
            cipher.updateAAD(context)
            sealed = _to_bytes(cipher.doFinal(key))
            nonce = _to_bytes(cipher.getIV())
        except KeyUnavailableError:
            raise
        except Exception as error:
            raise _unavailable(error) from error
        if len(nonce) != _NONCE_BYTES:
            raise KeyUnavailableError(f"the keystore made a nonce of {len(nonce)} bytes, not 12")
        return nonce + sealed

    def unwrap(self, wrapped: bytes, *, context: bytes) -> bytes:
        """See :meth:`pocketfl.store.vault.KeyVault.unwrap`."""
        try:
            parameters = self._class("javax.crypto.spec.GCMParameterSpec")(
                _TAG_BITS, wrapped[:_NONCE_BYTES]
            )
            cipher = self._class("javax.crypto.Cipher").getInstance(_TRANSFORMATION)
            cipher.init(
                self._class("javax.crypto.Cipher").DECRYPT_MODE, self._key(make=False), parameters
            )
            cipher.updateAAD(context)
            return _to_bytes(cipher.doFinal(wrapped[_NONCE_BYTES:]))
        except KeyUnavailableError:
            raise
        except Exception as error:
            raise _unavailable(error) from error

    def _key(self, *, make: bool) -> Any:
        keystore = self._class("java.security.KeyStore").getInstance(_PROVIDER)
        keystore.load(None)
        if not keystore.containsAlias(self._alias):
            if not make:
                raise KeyUnavailableError(
                    f"Android's keystore has no key {self._alias!r} (the store may come from another "
                    "install): revoke() its collections to start afresh"
                )
            return self._make_key()
        return keystore.getKey(self._alias, None)

    def _make_key(self) -> Any:
        properties = self._class("android.security.keystore.KeyProperties")
        builder = self._class("android.security.keystore.KeyGenParameterSpec$Builder")(
            self._alias, properties.PURPOSE_ENCRYPT | properties.PURPOSE_DECRYPT
        )
        builder.setBlockModes([properties.BLOCK_MODE_GCM])
        builder.setEncryptionPaddings([properties.ENCRYPTION_PADDING_NONE])
        builder.setKeySize(_KEY_BITS)
        generator = self._class("javax.crypto.KeyGenerator").getInstance(
            properties.KEY_ALGORITHM_AES, _PROVIDER
        )
        generator.init(builder.build())
        return generator.generateKey()


def _pyjnius() -> Callable[[str], Any]:
    try:
        autoclass: Callable[[str], Any] = importlib.import_module("jnius").autoclass
    except ImportError as error:
        raise KeyUnavailableError(
            "Android's keystore is reached through pyjnius: add it to the app's requirements"
        ) from error
    return autoclass


def _to_bytes(array: Any) -> bytes:
    # A Java byte is signed; pyjnius gives a list or a ByteArray of such numbers.
    return bytes(value & 0xFF for value in array)


def _unavailable(error: Exception) -> KeyUnavailableError:
    return KeyUnavailableError(
        f"Android's keystore failed ({error}): try again; if the key is gone for good, revoke() the "
        "collections to start afresh"
    )
