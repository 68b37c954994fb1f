"""From version 1: everything is there afterwards, encrypted, and nothing of it in the clear."""

import sqlite3

import pytest

from pocketfl.database import APPLICATION_ID, Database
from pocketfl.errors import StoreDamagedError, StoreError
from pocketfl.store import Collection, ExampleStore, Field, Retention
from pocketfl.store import upgrade as upgrade_module
from pocketfl.store.rows import RowCodec
from pocketfl.store.schema import encode_schema

NOTES = Collection("notes", {"text": Field("str"), "n": Field("int", optional=True)})
OTHER = Collection("other", {"x": Field("float")})

# As the first released version made it.
VERSION_1 = """
    CREATE TABLE collections(
        id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, schema BLOB NOT NULL);
    CREATE TABLE examples(
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        collection INTEGER NOT NULL REFERENCES collections(id),
        time REAL NOT NULL, created_at REAL NOT NULL, expires_at REAL,
        size INTEGER NOT NULL, payload BLOB NOT NULL);
    CREATE INDEX examples_by_collection ON examples(collection);
    CREATE TABLE server_features(
        feature_table TEXT NOT NULL, key TEXT NOT NULL, valid_from REAL NOT NULL,
        payload BLOB NOT NULL, PRIMARY KEY(feature_table, key, valid_from)) WITHOUT ROWID;
    CREATE TABLE device_state(name TEXT PRIMARY KEY, value BLOB NOT NULL);
    CREATE TABLE participations(
        task TEXT NOT NULL, round INTEGER NOT NULL, plan_sha256 TEXT NOT NULL,
        tossed_at REAL NOT NULL, state TEXT NOT NULL, PRIMARY KEY(task, round)) WITHOUT ROWID;
"""


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "a.db"
    plain = sqlite3.connect(path, isolation_level=None)
    plain.execute("PRAGMA journal_mode=WAL")
    plain.executescript(VERSION_1)
    for number, collection in enumerate((NOTES, OTHER), start=1):
        plain.execute(
            "INSERT INTO collections VALUES(?, ?, ?)",
            (number, collection.name, encode_schema(collection)),
        )
    for i in range(2500):
        collection, example = (NOTES, {"text": f"canary {i}"}) if i % 5 else (OTHER, {"x": i})
        payload = RowCodec(collection).encode(example, row=0)
        plain.execute(
            "INSERT INTO examples VALUES(NULL, ?, ?, ?, NULL, ?, ?)",
            (1 if i % 5 else 2, float(i), 1e9, len(payload), payload),
        )
    plain.execute("DELETE FROM examples WHERE id BETWEEN 100 AND 200")
    plain.execute("INSERT INTO device_state VALUES('enrolment.token', x'aa')")
    plain.execute(f"PRAGMA application_id={APPLICATION_ID}")
    plain.execute("PRAGMA user_version=1")
    plain.close()
    assert b"canary" in path.read_bytes()
    return path


def test_everything_survives_the_upgrade(path):
    """Ids, times and values are as before, and the store takes more."""
    with ExampleStore(path) as store:
        found = store.select("notes", limit=10_000, seed=0)
        assert store.collections() == (
            Collection("notes", NOTES.fields, Retention(max_bytes=None)),
            Collection("other", OTHER.fields, Retention(max_bytes=None)),
        )
        kept = [i for i in range(2500) if i % 5 and not 100 <= i + 1 <= 200]
        assert found.ids.tolist() == [i + 1 for i in kept]
        assert found.times.tolist() == kept
        assert found.columns["text"] == [f"canary {i}" for i in kept]
        assert store.count("notes") == len(kept)
        assert store.count("other") == len(store.select("other", limit=10_000, seed=0))
        assert store.database.read_state("enrolment.token") == b"\xaa"
        store.append("notes", [{"text": "new"}])
        assert store.last_id("notes") == 2501
        sizes = store.database.query("SELECT sum(size) FROM examples WHERE collection = 1")
        assert store.database.query("SELECT bytes FROM collections WHERE id = 1") == sizes


def test_nothing_stays_in_the_clear(path):
    """Neither what was kept nor what had been deleted before is left in file or log."""
    with ExampleStore(path):
        content = b"".join(file.read_bytes() for file in path.parent.glob("a.db*"))
    assert b"canary" not in content
    assert b"canary" not in path.read_bytes()
    with ExampleStore(path) as store:
        assert store.database.version == 2
        assert store.select("notes", limit=1, seed=0).columns["text"][0].startswith("canary")


def test_an_upgrade_that_fails_changes_nothing(path, monkeypatch):
    """When a later collection cannot be encrypted, the store is as it was, and the next try works."""
    real = upgrade_module._encrypt_collection

    def fail(database, vault, *, number, name, schema):
        real(database, vault, number=number, name=name, schema=schema)
        if number == 2:
            raise StoreError("disk full")

    monkeypatch.setattr(upgrade_module, "_encrypt_collection", fail)
    with pytest.raises(StoreError, match="disk full"):
        ExampleStore(path)
    with Database(path) as database:
        assert database.version == 1
        assert database.query("SELECT count(*) FROM collections WHERE schema IS NOT NULL") == [(2,)]
    monkeypatch.undo()
    with ExampleStore(path) as store:
        assert store.count("notes") + store.count("other") == 2399


def test_state_of_version_1_is_readable_without_the_store(path):
    """Whoever reads only state opens the file as it is, and leaves the upgrade to the store."""
    with Database(path) as database:
        assert database.read_state("enrolment.token") == b"\xaa"
    with ExampleStore(path) as store:
        assert store.count("notes") + store.count("other") == 2399


def test_damaged_version_1_is_set_aside(path):
    """A damaged old file does not stop the app either; its state is saved."""
    content = bytearray(path.read_bytes())
    content[4096 * 10 : 4096 * 14] = b"\xaa" * 4096 * 4
    path.write_bytes(content)
    with pytest.raises(StoreDamagedError):
        ExampleStore(path)
    with ExampleStore(path) as store:
        assert store.quarantine is not None
        assert store.database.version == 2
        assert store.database.read_state("enrolment.token") == b"\xaa"
        store.create_collection(NOTES)
        store.append("notes", [{"text": "new"}])
        assert store.select("notes", limit=9, seed=0).columns["text"] == ["new"]
