"""Vaults: the device's key is made once, kept to its owner, and nothing opens without it."""

import os
import subprocess
import sys

import pytest

from pocketfl.errors import KeyUnavailableError
from pocketfl.store import Collection, ExampleStore, Field, FileKeyVault
from pocketfl.store.android_keystore import AndroidKeyVault

NOTES = Collection("notes", {"x": Field("int")})


def test_wrapped_keys_come_back_to_any_vault_of_the_file(tmp_path):
    """Another process with the same file unwraps; wrapping twice never gives the same bytes."""
    first = FileKeyVault(tmp_path / "key")
    wrapped = first.wrap(b"secret" * 5, context=b"a")
    assert first.wrap(b"secret" * 5, context=b"a") != wrapped
    assert b"secret" not in wrapped
    assert FileKeyVault(tmp_path / "key").unwrap(wrapped, context=b"a") == b"secret" * 5


@pytest.mark.skipif(os.name != "posix", reason="rights of files are POSIX's")
def test_only_the_owner_may_read(tmp_path):
    """The key file is made for its owner only, whatever the umask, and made so again after a copy."""
    path = tmp_path / "key"
    old = os.umask(0)
    try:
        wrapped = FileKeyVault(path).wrap(b"k", context=b"")
    finally:
        os.umask(old)
    assert path.stat().st_mode & 0o777 == 0o600
    path.chmod(0o644)
    FileKeyVault(path).unwrap(wrapped, context=b"")
    assert path.stat().st_mode & 0o777 == 0o600


def test_wrapped_keys_are_bound_to_their_context(tmp_path):
    """The key of one collection cannot pass for another one's."""
    vault = FileKeyVault(tmp_path / "key")
    with pytest.raises(KeyUnavailableError, match="does not open"):
        vault.unwrap(vault.wrap(b"k", context=b"a"), context=b"b")
    with pytest.raises(KeyUnavailableError, match="does not open"):
        vault.unwrap(b"", context=b"b")


@pytest.mark.parametrize(
    "damage", [lambda c: c[:-1], lambda c: b"x" + c[1:], lambda c: c[:20] + b"zz" + c[22:]]
)
def test_damaged_key_files_are_refused_and_kept(tmp_path, damage):
    """A key file that is not whole is an error, never silently made anew."""
    path = tmp_path / "key"
    wrapped = FileKeyVault(path).wrap(b"k", context=b"")
    path.write_bytes(damage(path.read_bytes()))
    before = path.read_bytes()
    with pytest.raises(KeyUnavailableError, match="damaged"):
        FileKeyVault(path).unwrap(wrapped, context=b"")
    with pytest.raises(KeyUnavailableError, match="damaged"):
        FileKeyVault(path).wrap(b"k", context=b"")
    assert path.read_bytes() == before


def test_a_file_left_empty_is_written_anew(tmp_path):
    """A process that died between making the file and writing it leaves no trap."""
    (tmp_path / "key").touch()
    vault = FileKeyVault(tmp_path / "key")
    assert vault.unwrap(vault.wrap(b"k", context=b""), context=b"") == b"k"


def test_racing_processes_agree_on_one_key(tmp_path):
    """Of several first uses at once, all end with the same key."""
    script = (
        "import sys\n"
        "from pocketfl.store import FileKeyVault\n"
        "for n in range(30):\n"
        "    v = FileKeyVault(f'{sys.argv[1]}/{n}')\n"
        "    open(f'{sys.argv[1]}/{n}.{sys.argv[2]}', 'wb').write(v.wrap(b'k', context=b''))\n"
    )
    racers = [
        subprocess.Popen([sys.executable, "-c", script, str(tmp_path), str(i)]) for i in range(3)
    ]
    assert [racer.wait(timeout=120) for racer in racers] == [0, 0, 0]
    for n in range(30):
        vault = FileKeyVault(tmp_path / str(n))
        for i in range(3):
            assert vault.unwrap((tmp_path / f"{n}.{i}").read_bytes(), context=b"") == b"k"


def test_store_without_its_key_says_so_and_starts_afresh(tmp_path):
    """A lost key file costs the examples, not the app: revoke() and a new collection work."""
    with ExampleStore(tmp_path / "a.db") as store:
        store.create_collection(NOTES)
        store.append("notes", [{"x": 1}])
    (tmp_path / "a.db-key").unlink()
    with ExampleStore(tmp_path / "a.db") as store:
        assert store.count("notes") == 1
        with pytest.raises(KeyUnavailableError, match=r"a\.db-key"):
            store.select("notes", limit=1, seed=0)
        with pytest.raises(KeyUnavailableError, match=r"revoke\(\)"):
            store.append("notes", [{"x": 2}])
        assert store.count("notes") == 1
        assert store.revoke("notes").examples == 1
        store.create_collection(NOTES)
        store.append("notes", [{"x": 3}])
        assert store.select("notes", limit=1, seed=0).columns == {"x": [3]}


def test_reading_and_declaring_need_no_key(tmp_path):
    """Opening, declaring and counting make no key file: only a first example does."""
    with ExampleStore(tmp_path / "a.db") as store:
        store.create_collection(NOTES)
        assert store.count("notes") == 0
        assert len(store.select("notes", limit=1, seed=0)) == 0
        assert not (tmp_path / "a.db-key").exists()


def test_stores_may_share_a_vault(tmp_path):
    """A vault given by the app serves several stores, and no key file lies beside them."""
    vault = FileKeyVault(tmp_path / "shared")
    for name in ("a.db", "b.db"):
        with ExampleStore(tmp_path / name, vault=vault) as store:
            store.create_collection(NOTES)
            store.append("notes", [{"x": 1}])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.db", "b.db", "shared"]


class Keystore:
    """Stands in for Android: the Java classes that the vault calls, on our own AES-GCM."""

    def __init__(self):
        self.keys = {}
        self.specs = []

    def __call__(self, name):
        return getattr(self, name.rsplit(".", 1)[1].replace("$", "_"))

    @property
    def KeyProperties(self):  # noqa: N802
        class Properties:
            PURPOSE_ENCRYPT, PURPOSE_DECRYPT = 1, 2
            BLOCK_MODE_GCM, ENCRYPTION_PADDING_NONE, KEY_ALGORITHM_AES = "GCM", "NoPadding", "AES"

        return Properties

    @property
    def KeyStore(self):  # noqa: N802
        keystore = self

        class Store:
            @staticmethod
            def getInstance(provider):  # noqa: N802
                assert provider == "AndroidKeyStore"
                return Store()

            def load(self, argument):
                assert argument is None

            def containsAlias(self, alias):  # noqa: N802
                return alias in keystore.keys

            def getKey(self, alias, password):  # noqa: N802
                assert password is None
                return keystore.keys[alias]

        return Store

    @property
    def KeyGenParameterSpec_Builder(self):  # noqa: N802
        class Builder:
            def __init__(self, alias, purposes):
                self.spec = {"alias": alias, "purposes": purposes}

            def setBlockModes(self, *modes):  # noqa: N802
                self.spec["modes"] = list(modes)

            def setEncryptionPaddings(self, *paddings):  # noqa: N802
                self.spec["paddings"] = list(paddings)

            def setKeySize(self, bits):  # noqa: N802
                self.spec["bits"] = bits

            def build(self):
                return self.spec

        return Builder

    @property
    def KeyGenerator(self):  # noqa: N802
        keystore = self

        class Generator:
            @staticmethod
            def getInstance(algorithm, provider):  # noqa: N802
                assert (algorithm, provider) == ("AES", "AndroidKeyStore")
                return Generator()

            def init(self, spec):
                self.spec = spec

            def generateKey(self):  # noqa: N802
                keystore.specs.append(self.spec)
                key = os.urandom(self.spec["bits"] // 8)
                keystore.keys[self.spec["alias"]] = key
                return key

        return Generator

    @property
    def GCMParameterSpec(self):  # noqa: N802
        return lambda bits, nonce: (bits, nonce)

    @property
    def Cipher(self):  # noqa: N802
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        class Cipher:
            ENCRYPT_MODE, DECRYPT_MODE = 1, 2

            @staticmethod
            def getInstance(transformation):  # noqa: N802
                assert transformation == "AES/GCM/NoPadding"
                return Cipher()

            def init(self, mode, key, parameters=None):
                self.mode, self.cipher = mode, AESGCM(key)
                assert (parameters is None) == (mode == self.ENCRYPT_MODE)
                self.nonce = os.urandom(12) if parameters is None else parameters[1]

            def updateAAD(self, data):  # noqa: N802
                self.aad = data

            def getIV(self):  # noqa: N802
                return [byte - 256 if byte > 127 else byte for byte in self.nonce]

            def doFinal(self, data):  # noqa: N802
                run = self.cipher.encrypt if self.mode == 1 else self.cipher.decrypt
                return [b - 256 if b > 127 else b for b in run(self.nonce, data, self.aad)]

        return Cipher


def test_android_vault_keeps_its_key_in_the_keystore(tmp_path):
    """The key is made once, for AES-256-GCM alone, and serves a store across openings."""
    keystore = Keystore()
    for opening in range(2):
        vault = AndroidKeyVault(autoclass=keystore)
        with ExampleStore(tmp_path / "a.db", vault=vault) as store:
            store.create_collection(NOTES)
            store.append("notes", [{"x": opening}])
            assert store.select("notes", limit=9, seed=0).columns["x"] == list(range(opening + 1))
    assert keystore.specs == [
        {
            "alias": "pocketfl.store",
            "purposes": 3,
            "modes": ["GCM"],
            "paddings": ["NoPadding"],
            "bits": 256,
        }
    ]
    assert not (tmp_path / "a.db-key").exists()


def test_android_vault_without_its_key_says_so():
    """A store from another install, or a keystore that fails, is an error that says what to do."""
    keystore = Keystore()
    vault = AndroidKeyVault(autoclass=keystore)
    wrapped = vault.wrap(b"k" * 32, context=b"c")
    with pytest.raises(KeyUnavailableError, match="keystore failed"):
        vault.unwrap(wrapped, context=b"d")
    keystore.keys.clear()
    with pytest.raises(KeyUnavailableError, match=r"no key 'pocketfl\.store'"):
        vault.unwrap(wrapped, context=b"c")


def test_android_vault_needs_pyjnius(monkeypatch):
    """Without the bridge to Java the message names it."""
    monkeypatch.setitem(sys.modules, "jnius", None)
    with pytest.raises(KeyUnavailableError, match="pyjnius"):
        AndroidKeyVault()
