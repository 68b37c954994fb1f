"""Seals and opens a key with Java's own ciphers through the code that a phone runs; a script.

A desktop's Java has no AndroidKeyStore: its place takes a key store in memory, and that of the
specification of the key its number of bits.
"""

# ruff: noqa: N802 - the names are Java's

from __future__ import annotations

import os
from types import SimpleNamespace

from jnius import autoclass, cast

from pocketfl.errors import KeyUnavailableError
from pocketfl.store.android_keystore import AndroidKeyVault

KEYS = {}
PARAMETERS = autoclass("java.security.KeyStore").getInstance("PKCS12")
PARAMETERS.load(None)


class Keystore:
    """``AndroidKeyStore``, which hands out keys by name."""

    @staticmethod
    def getInstance(provider):
        assert provider == "AndroidKeyStore"
        return Keystore

    @staticmethod
    def load(parameters):
        PARAMETERS.load(parameters)

    @staticmethod
    def containsAlias(alias):
        return alias in KEYS

    @staticmethod
    def getKey(alias, password):
        return KEYS[alias]


class Generator:
    """``KeyGenerator`` of that provider."""

    @staticmethod
    def getInstance(algorithm, provider):
        assert (algorithm, provider) == ("AES", "AndroidKeyStore")
        return Generator

    @staticmethod
    def init(spec):
        Generator.spec = spec

    @staticmethod
    def generateKey():
        java = autoclass("javax.crypto.KeyGenerator").getInstance("AES")
        java.init(Generator.spec.bits)
        KEYS[Generator.spec.alias] = cast("java.security.Key", java.generateKey())
        return KEYS[Generator.spec.alias]


class Builder:
    """``KeyGenParameterSpec.Builder``."""

    def __init__(self, alias, purposes):
        self.alias, self.purposes = alias, purposes

    def setBlockModes(self, *modes):
        assert modes == ("GCM",)

    def setEncryptionPaddings(self, *paddings):
        assert paddings == ("NoPadding",)

    def setKeySize(self, bits):
        self.bits = bits

    def build(self):
        return self


FAKES = {
    "java.security.KeyStore": Keystore,
    "javax.crypto.KeyGenerator": Generator,
    "android.security.keystore.KeyGenParameterSpec$Builder": Builder,
    "android.security.keystore.KeyProperties": SimpleNamespace(
        PURPOSE_ENCRYPT=1,
        PURPOSE_DECRYPT=2,
        BLOCK_MODE_GCM="GCM",
        ENCRYPTION_PADDING_NONE="NoPadding",
        KEY_ALGORITHM_AES="AES",
    ),
}

vault = AndroidKeyVault(autoclass=lambda name: FAKES.get(name) or autoclass(name))
for _ in range(50):
    key = os.urandom(32)
    wrapped = vault.wrap(key, context=b"examples")
    assert len(wrapped) == 12 + 32 + 16
    assert vault.unwrap(wrapped, context=b"examples") == key
for changed, context in ((wrapped, b"other"), (wrapped[:-1] + b"\0", b"examples")):
    try:
        vault.unwrap(changed, context=context)
    except KeyUnavailableError as error:
        assert "AEADBadTagException" in str(error), error
    else:
        raise AssertionError("a changed key was opened")
print("sealed and opened 50 keys")
