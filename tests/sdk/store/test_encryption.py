"""Rows at rest: nothing in the clear, nothing moved, nothing changed unnoticed."""

import os
import sqlite3

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pocketfl.errors import StoreDamagedError
from pocketfl.store import Collection, ExampleStore, Field
from pocketfl.store.encryption import NONCE_BYTES, OVERHEAD_BYTES, RowCipher

CANARY = "canary-of-this-user"


@given(st.lists(st.binary(max_size=50), max_size=8), st.floats(allow_nan=False))
def test_rows_come_back(payloads, time):
    """Opening what was sealed gives the same rows, each longer by a nonce and a tag."""
    cipher = RowCipher(os.urandom(32), collection=3)
    ids, times = range(len(payloads)), [time] * len(payloads)
    sealed = cipher.seal(payloads, ids=ids, times=times)
    assert cipher.open(sealed, ids=ids, times=times) == payloads
    assert [len(data) - OVERHEAD_BYTES for data in sealed] == [len(data) for data in payloads]
    assert len({data[:NONCE_BYTES] for data in sealed}) == len(payloads)


@given(st.binary(max_size=40), st.data())
def test_any_changed_bit_is_noticed(payload, data):
    """No bit of nonce, ciphertext or tag can change."""
    cipher = RowCipher(b"k" * 32, collection=1)
    (sealed,) = cipher.seal([payload], ids=[7], times=[1.5])
    bit = data.draw(st.integers(0, 8 * len(sealed) - 1))
    changed = bytearray(sealed)
    changed[bit // 8] ^= 1 << bit % 8
    with pytest.raises(StoreDamagedError):
        cipher.open([bytes(changed)], ids=[7], times=[1.5])


@pytest.mark.parametrize(
    ("collection", "row", "time", "key"),
    [(2, 7, 1.5, b"k"), (1, 8, 1.5, b"k"), (1, 7, 1.25, b"k"), (1, 7, 1.5, b"l")],
    ids=["collection", "id", "time", "key"],
)
def test_a_row_is_bound_to_its_place(collection, row, time, key):
    """A row that is moved to another collection, id or time does not open, nor with another key."""
    (sealed,) = RowCipher(b"k" * 32, collection=1).seal([b"row"], ids=[7], times=[1.5])
    with pytest.raises(StoreDamagedError):
        RowCipher(key * 32, collection=collection).open([sealed], ids=[row], times=[time])


@pytest.mark.parametrize("hostile", [b"", b"short", None, 5, "text", 1.5])
def test_other_types_are_damage(hostile):
    """A damaged file has anything in its columns; that is our error, not Python's."""
    cipher = RowCipher(b"k" * 32, collection=1)
    with pytest.raises(StoreDamagedError):
        cipher.open([hostile], ids=[1], times=[1.0])
    with pytest.raises(StoreDamagedError):
        cipher.open(cipher.seal([b"row"], ids=[1], times=[1.0]), ids=[1], times=[hostile])


def test_files_hold_no_example_in_the_clear(tmp_path):
    """Neither the file nor its log has a text of an example, nor a key that opens it."""
    with ExampleStore(tmp_path / "a.db") as store:
        store.create_collection(Collection("notes", {"text": Field("str")}))
        store.append("notes", [{"text": CANARY}] * 50)
        content = b"".join(path.read_bytes() for path in sorted(tmp_path.glob("a.db*")))
        assert CANARY.encode() not in content
        assert b"notes" in content
        assert store.select("notes", limit=1, seed=0).columns == {"text": [CANARY]}
    key = (tmp_path / "a.db-key").read_bytes()
    assert key[17:49] not in (tmp_path / "a.db").read_bytes()


def test_every_collection_has_its_own_key(tmp_path):
    """Rows of one collection are unreadable with another one's key, also from one moment."""
    with ExampleStore(tmp_path / "a.db") as store:
        for name in ("a", "b"):
            store.create_collection(Collection(name, {"x": Field("int")}))
            store.append(name, [{"x": 1}])
    plain = sqlite3.connect(tmp_path / "a.db")
    keys = plain.execute("SELECT DISTINCT wrapped_key FROM collections").fetchall()
    plain.execute("UPDATE examples SET collection = 3 - collection")
    plain.commit()
    plain.close()
    assert len(keys) == 2
    with ExampleStore(tmp_path / "a.db") as store:
        assert len(store.select("a", limit=1, seed=0)) == 0
        assert store.damaged("a") == 1


def test_a_key_that_was_rolled_back_is_forgotten(tmp_path):
    """When the first append fails and another process makes the key, both go on with that one."""
    collection = Collection("notes", {"x": Field("int")})
    with ExampleStore(tmp_path / "a.db") as store, ExampleStore(tmp_path / "a.db") as other:
        store.create_collection(collection)
        with pytest.raises(RuntimeError), store.database.transaction():
            store.append("notes", [{"x": 1}])
            raise RuntimeError
        other.append("notes", [{"x": 2}])
        store.append("notes", [{"x": 3}])
        for each in (store, other):
            assert each.select("notes", limit=5, seed=0).columns == {"x": [2, 3]}
