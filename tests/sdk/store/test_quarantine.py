"""Damage: the file is set aside, the app goes on, what can be read is saved, and it is said."""

import sqlite3

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pocketfl.database import LOST_AT_STATE, Tables, damage_mark
from pocketfl.errors import StoreDamagedError, StoreError
from pocketfl.store import Collection, ExampleStore, Field, Retention

NOTES = Collection("notes", {"n": Field("int"), "text": Field("str")})
LEDGER = Tables(
    name="ledger",
    steps=(("CREATE TABLE spent(day INTEGER, joules REAL)", "CREATE INDEX by_day ON spent(day)"),),
)
PAGE = 4096


def fill(path, count=400):
    with ExampleStore(path) as store:
        store.create_collection(NOTES)
        store.append("notes", [{"n": n, "text": "x" * 200} for n in range(count)])
        store.database.ensure(LEDGER)
        with store.database.transaction() as connection:
            connection.executemany("INSERT INTO spent VALUES(?, ?)", [(n, 1.5) for n in range(50)])
        store.database.write_state("enrolment.token", b"token")
    return path


def goes_on(path):
    """Whether a store opened here works; returns it closed."""
    with ExampleStore(path) as store:
        store.create_collection(NOTES)
        before = store.count("notes")
        store.append("notes", [{"n": -1, "text": "new"}])
        assert store.count("notes") == before + 1
        assert store.quarantine is None


def test_sound_file_is_left_alone(tmp_path):
    """Nothing is set aside without damage."""
    path = fill(tmp_path / "a.db")
    with ExampleStore(path) as store:
        assert store.quarantine is None
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.db", "a.db-key"]


@pytest.mark.parametrize(
    "content", [b"only some text" * 400, b"SQLite format 3\x00" + b"\xff" * 5000], ids=str
)
def test_garbage_is_set_aside(tmp_path, content):
    """A file that is no database gives a fresh store, and is kept as it was."""
    path = tmp_path / "a.db"
    path.write_bytes(content)
    with ExampleStore(path) as store:
        assert store.quarantine is not None
        assert store.quarantine.moved_to.read_bytes() == content
        assert store.quarantine.lost == ("everything",)
        assert "damaged" in store.quarantine.reason
        assert store.database.read_state(LOST_AT_STATE) is not None
    goes_on(path)


def test_what_can_be_read_is_saved(tmp_path):
    """With some pages overwritten, other modules' tables and the other examples are in the new file."""
    path = fill(tmp_path / "a.db")
    content = bytearray(path.read_bytes())
    with ExampleStore(path) as store:
        middle = len(content) // PAGE // 2
        assert store.count("notes") == 400
    for page in (middle, middle + 1):
        content[page * PAGE : (page + 1) * PAGE] = b"\xaa" * PAGE
    path.write_bytes(content)
    with ExampleStore(path) as store, pytest.raises(StoreDamagedError):
        store.database.query("SELECT sum(length(payload)) FROM examples")
    assert damage_mark(path).exists()
    with ExampleStore(path) as store:
        quarantine = store.quarantine
        assert quarantine is not None
        assert "examples" in quarantine.lost
        assert quarantine.saved["spent"] == 50
        assert store.database.query("SELECT count(*), sum(joules) FROM spent") == [(50, 75.0)]
        assert store.database.read_state("enrolment.token") == b"token"
        store.database.ensure(LEDGER)
        kept = store.select("notes", limit=1000, seed=0)
        assert 300 < len(kept) < 400
        assert store.count("notes") == len(kept)
        # Both ends are there: damage in the middle does not cost what comes after it.
        assert kept.columns["n"][0] == 0
        assert kept.columns["n"][-1] == 399
        assert kept.ids.tolist() == [n + 1 for n in kept.columns["n"]]
        store.append("notes", [{"n": 400, "text": "new"}])
        assert store.last_id("notes") > 400
    assert not damage_mark(path).exists()
    goes_on(path)


def test_mark_without_damage_is_taken_back(tmp_path):
    """When a closer look finds nothing wrong, the file stays where it is."""
    path = fill(tmp_path / "a.db")
    damage_mark(path).touch()
    with ExampleStore(path) as store:
        assert store.quarantine is None
        assert store.count("notes") == 400
    assert not damage_mark(path).exists()


def test_only_the_latest_damaged_file_is_kept(tmp_path):
    """Damage again and again does not fill the disk."""
    path = fill(tmp_path / "a.db")
    for turn in range(3):
        path.write_bytes(b"broken" * (1000 + turn))
        with ExampleStore(path) as store:
            assert store.quarantine.moved_to.read_bytes() == b"broken" * (1000 + turn)
    names = {file.name for file in tmp_path.iterdir()}
    assert names == {"a.db", "a.db-key", "a.db-damaged-file", "a.db-quarantine"}


def test_files_of_others_are_never_set_aside(tmp_path):
    """A sound database of another app, or of a newer version, is an error and stays."""
    path = tmp_path / "a.db"
    ExampleStore(path).close()
    content = bytearray(path.read_bytes())
    content[60:64] = (99).to_bytes(4, "big")
    path.write_bytes(content)
    with pytest.raises(StoreError, match="newer version"):
        ExampleStore(path)
    assert path.read_bytes() == content


@pytest.mark.parametrize("table", ["collections", "collection_layouts", "device_state"])
@pytest.mark.parametrize("start", [0, 2000])
def test_a_rotten_page_of_declarations_costs_no_example(tmp_path, table, start):
    """What opens a collection is kept twice: with either page gone all examples are there."""
    path = fill(tmp_path / "a.db")
    with sqlite3.connect(path) as connection:
        ((page,),) = connection.execute(
            "SELECT rootpage FROM sqlite_schema WHERE name = ?", (table,)
        ).fetchall()
    connection.close()
    content = bytearray(path.read_bytes())
    content[(page - 1) * PAGE + start : page * PAGE] = bytes(PAGE - start)
    path.write_bytes(content)
    damage_mark(path).touch()
    with ExampleStore(path) as store:
        assert store.quarantine is not None
        store.create_collection(NOTES)
        assert store.select("notes", limit=1000, seed=0).columns["n"] == list(range(400))
    goes_on(path)


@pytest.mark.parametrize(
    "rot",
    [
        "UPDATE collection_layouts SET schema = x'00'",
        "UPDATE collection_layouts SET schema = replace(schema, 'text', 'test')",
        "UPDATE collection_layouts SET first_id = 7",
        "UPDATE collections SET retention = x'7b'",
        "UPDATE collections SET wrapped_key = zeroblob(60)",
        "UPDATE collections SET examples = 7",
        "UPDATE collections SET bytes = 'many'",
        "UPDATE collections SET name = x'ff'",
        "UPDATE examples SET payload = CAST(x'ff00' AS TEXT) WHERE id = 9",
        "UPDATE examples SET size = 'big' WHERE id = 9; UPDATE examples SET time = 0 WHERE id = 9",
        "UPDATE sqlite_sequence SET seq = 3 WHERE name = 'examples'",
        "PRAGMA writable_schema = ON; "
        "UPDATE sqlite_schema SET sql = replace(sql, 'wrapped_key', 'wrapQed_key')",
        "PRAGMA writable_schema = ON; "
        "UPDATE sqlite_schema SET sql = CAST(replace(sql, 'BLOB', x'28ff') AS TEXT) "
        "WHERE name = 'collections'",
    ],
)
def test_rows_that_are_in_order_and_wrong_are_put_right(tmp_path, rot):
    """What SQLite's check of a file does not see is met once, and an app that opens again goes on."""
    path = fill(tmp_path / "a.db")
    connection = sqlite3.connect(path, isolation_level=None)
    connection.executescript(rot)
    connection.close()
    for _ in range(2):
        try:
            with ExampleStore(path) as store:
                store.create_collection(NOTES)
                kept = store.select("notes", limit=1000, seed=0)
                store.append("notes", [{"n": -1, "text": "new"}])
                store.delete("notes", ids=[store.last_id("notes")])
        except StoreDamagedError:
            continue
        break
    assert kept.columns["n"] == [n for n in range(400) if n != 8 or "id = 9" not in rot]
    goes_on(path)


def test_files_without_a_second_copy_get_one(tmp_path):
    """A collection of an older version is as safe as any once it was declared again."""
    path = fill(tmp_path / "a.db")
    with ExampleStore(path) as store:
        store.database.delete_state("store.collection/notes")
        assert store.collection("notes") == NOTES
    with ExampleStore(path) as store:
        store.create_collection(NOTES)
        assert store.database.read_state("store.collection/notes") is not None
    goes_on(path)


def test_a_revoked_collection_leaves_no_copy(tmp_path):
    """The key's copy goes with the key, and damage brings neither back."""
    path = fill(tmp_path / "a.db")
    with ExampleStore(path) as store:
        copy = store.database.read_state("store.collection/notes")
        store.revoke("notes")
        assert store.database.read_state("store.collection/notes") is None
        # As if the erasure had met damage in between.
        store.database.write_state("store.collection/notes", copy)
        with store.database.transaction() as connection:
            connection.execute("INSERT INTO revoked_collections VALUES(1)")
            connection.execute("INSERT INTO collections(id, name, retention) VALUES(9, 'x', x'00')")
    damage_mark(path).touch()
    with ExampleStore(path) as store:
        assert store.quarantine is not None
        assert store.collections() == ()
        assert store.database.read_state("store.collection/notes") is None


def test_declared_retention_is_saved(tmp_path):
    """A fresh file keeps to the limits that the app had set."""
    path = tmp_path / "a.db"
    limited = Collection("notes", NOTES.fields, Retention(max_examples=500, max_age_seconds=1e9))
    with ExampleStore(path) as store:
        store.create_collection(limited)
        store.append("notes", [{"n": n, "text": "x" * 100} for n in range(400)])
    content = bytearray(path.read_bytes())
    content[-3 * PAGE : -2 * PAGE] = b"\xaa" * PAGE
    path.write_bytes(content)
    damage_mark(path).touch()
    with ExampleStore(path) as store:
        assert store.quarantine is not None
        assert store.collection("notes") == limited


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_any_damage_leaves_a_working_store(tmp_path_factory, data):
    """Bytes overwritten anywhere, or an end cut off: a session or two later, the store works."""
    path = fill(tmp_path_factory.mktemp("s") / "a.db", count=60)
    content = bytearray(path.read_bytes())
    if data.draw(st.booleans()):
        content = content[: data.draw(st.integers(1, len(content) - 1))]
    else:
        start = data.draw(st.integers(0, len(content) - 1))
        length = data.draw(st.sampled_from([1, 16, 500, PAGE, 3 * PAGE]))
        part = content[start : start + length]
        zeros = data.draw(st.booleans())
        content[start : start + length] = bytes(0 if zeros else byte ^ 0x5A for byte in part)
    path.write_bytes(content)
    last = None
    for _ in range(4):
        try:
            with ExampleStore(path) as store:
                store.create_collection(NOTES)
                kept = store.select("notes", limit=100, seed=0)
                assert kept.columns["n"] == [row - 1 for row in kept.ids.tolist()]
                store.append("notes", [{"n": store.last_id("notes"), "text": "new"}])
                store.delete("notes", ids=[store.last_id("notes")])
                return
        except StoreError as error:
            last = error
    # Marks of the file that turned into another app's or a newer version's are not ours to judge.
    assert "something else" in str(last) or "newer version" in str(last), last
