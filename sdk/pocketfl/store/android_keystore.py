"""The device's key in Android's keystore: it never leaves the secure hardware, where there is one.

Imported on Android only; pyjnius comes with the app. Types are those of the framework at API 36
(``chaquopy-stubs-android``), so that mypy checks every call against it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from pocketfl.errors import KeyUnavailableError
from pocketfl.java import ClassFinder, load_java

if TYPE_CHECKING:
    from android.security.keystore import KeyGenParameterSpec, KeyProperties
    from java.security import Key, KeyStore
    from javax.crypto import Cipher, KeyGenerator
    from javax.crypto.spec import GCMParameterSpec

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
        self, alias: str = "pocketfl.store", *, autoclass: ClassFinder | None = None
    ) -> None:
        self._alias = alias
        self._class = autoclass if autoclass is not None else _pyjnius()

    def wrap(self, key: bytes, *, context: bytes) -> bytes:
        """See :meth:`pocketfl.store.vault.KeyVault.wrap`."""
        try:
            ciphers: type[Cipher] = self._class("javax.crypto.Cipher")
            cipher = ciphers.getInstance(_TRANSFORMATION)
            cipher.init(ciphers.ENCRYPT_MODE, self._key(make=True))
            cipher.updateAAD(_from_bytes(context))
            sealed = _to_bytes(cipher.doFinal(_from_bytes(key)))
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
            specs: type[GCMParameterSpec] = self._class("javax.crypto.spec.GCMParameterSpec")
            parameters = specs(_TAG_BITS, _from_bytes(wrapped[:_NONCE_BYTES]))
            ciphers: type[Cipher] = self._class("javax.crypto.Cipher")
            cipher = ciphers.getInstance(_TRANSFORMATION)
            cipher.init(ciphers.DECRYPT_MODE, self._key(make=False), parameters)
            cipher.updateAAD(_from_bytes(context))
            return _to_bytes(cipher.doFinal(_from_bytes(wrapped[_NONCE_BYTES:])))
        except KeyUnavailableError:
            raise
        except Exception as error:
            raise _unavailable(error) from error

    def _key(self, *, make: bool) -> Key:
        keystores: type[KeyStore] = self._class("java.security.KeyStore")
        keystore = keystores.getInstance(_PROVIDER)
        # The stubs do not know that it may be null.
        nothing: Any = None
        keystore.load(nothing)
        if not keystore.containsAlias(self._alias):
            if not make:
                raise KeyUnavailableError(
                    f"Android's keystore has no key {self._alias!r} (the store may come from another "
                    "install): revoke() its collections to start afresh"
                )
            return self._make_key()
        return keystore.getKey(self._alias, nothing)

    def _make_key(self) -> Key:
        properties: type[KeyProperties] = self._class("android.security.keystore.KeyProperties")
        builders: type[KeyGenParameterSpec.Builder] = self._class(
            "android.security.keystore.KeyGenParameterSpec$Builder"
        )
        builder = builders(self._alias, properties.PURPOSE_ENCRYPT | properties.PURPOSE_DECRYPT)
        # Variable arguments: pyjnius takes them one by one, and makes nothing of a list.
        builder.setBlockModes(_text(properties.BLOCK_MODE_GCM))
        builder.setEncryptionPaddings(_text(properties.ENCRYPTION_PADDING_NONE))
        builder.setKeySize(_KEY_BITS)
        generators: type[KeyGenerator] = self._class("javax.crypto.KeyGenerator")
        generator = generators.getInstance(properties.KEY_ALGORITHM_AES, _PROVIDER)
        generator.init(builder.build())
        return generator.generateKey()


def _pyjnius() -> ClassFinder:
    try:
        return load_java().autoclass
    except ImportError as error:
        raise KeyUnavailableError(
            "Android's keystore is reached through pyjnius: add it to the app's requirements"
        ) from error


def _from_bytes(data: bytes) -> Any:
    """Return bytes where Java wants an array of them: pyjnius makes one of it."""
    return data


def _text(text: str) -> Any:
    """Return a text where the stubs want Java's own: pyjnius makes one of it."""
    return text


def _to_bytes(array: Any) -> bytes:
    # A Java byte is signed; pyjnius gives a list or a ByteArray of such numbers.
    return bytes(value & 0xFF for value in array)


def _unavailable(error: Exception) -> KeyUnavailableError:
    return KeyUnavailableError(
        f"Android's keystore failed ({error}): try again; if the key is gone for good, revoke() the "
        "collections to start afresh"
    )
