"""The example store on a real file: all or nothing in, the same selection out."""

import sqlite3
import threading
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pocketfl.errors import StoreDamagedError, StoreError
from pocketfl.protocol import FeatureRow
from pocketfl.store import Collection, ExampleStore, Field, reading

FLIGHTS = Collection(
    "flights", {"distance": Field("float"), "carrier": Field("str", optional=True)}
)


def flights(count, start=0):
    return [{"distance": float(i), "carrier": f"C{i}"} for i in range(start, start + count)]


@pytest.fixture
def store(tmp_path):
    with ExampleStore(tmp_path / "store.db") as opened:
        opened.create_collection(FLIGHTS)
        yield opened


def test_examples_survive_closing(tmp_path):
    """A second process reads what the first one appended, with times and order."""
    with ExampleStore(tmp_path / "a.db") as store:
        store.create_collection(FLIGHTS)
        assert store.append("flights", flights(3), times=[5, 3.5, 4]) == 3
    with ExampleStore(tmp_path / "a.db") as store:
        found = store.select("flights", limit=10, seed=0)
    assert found.times.tolist() == [5, 3.5, 4]
    assert found.columns == {"distance": [0.0, 1.0, 2.0], "carrier": ["C0", "C1", "C2"]}
    assert found.ids.dtype == np.int64
    assert (np.diff(found.ids) > 0).all()
    assert len(found) == 3


def test_times_default_to_now(store):
    """Without times an example belongs to the moment it was added."""
    before = time.time()
    store.append("flights", flights(2))
    times = store.select("flights", limit=5, seed=0).times
    assert all(before <= moment <= time.time() for moment in times)


def test_one_bad_example_keeps_all_of_them_out(store):
    """Append is all or nothing, and the message leads to the bad row."""
    store.append("flights", flights(2))
    with pytest.raises(StoreError, match="collection 'flights', field 'distance', row 2"):
        store.append("flights", [*flights(2), {"distance": "far"}, *flights(2)])
    assert store.count("flights") == 2


def test_examples_may_come_from_a_generator(store):
    """Any iterable does, for examples and times alike."""
    assert store.append("flights", iter(flights(4)), times=iter(range(4))) == 4
    assert store.append("flights", []) == 0
    assert store.count("flights") == 4


@pytest.mark.parametrize("times", [[1.0], [1.0, 2.0, 3.0], [1.0, float("nan")]])
def test_bad_times_keep_examples_out(store, times):
    """As many times as examples, and finite."""
    with pytest.raises(StoreError, match=r"times|not finite"):
        store.append("flights", flights(2), times=times)
    assert store.count("flights") == 0


def test_same_collection_again_is_no_error(store):
    """An app may declare its collections at every start; other fields under a name are refused."""
    store.create_collection(FLIGHTS)
    turned = Collection("flights", dict(reversed(list(FLIGHTS.fields.items()))))
    store.create_collection(turned)
    with pytest.raises(StoreError, match=r"exists with other fields \(carrier, speed differ\)"):
        store.create_collection(
            Collection(
                "flights",
                {"distance": Field("float"), "carrier": Field("str"), "speed": Field("int")},
            )
        )
    assert store.collections() == (FLIGHTS,)


def test_missing_collection_names_those_there_are(store):
    """The message says what was asked for, what exists, and what to call."""
    for call in (
        lambda: store.append("trains", []),
        lambda: store.count("trains"),
        lambda: store.select("trains", limit=1, seed=0),
        lambda: store.collection("trains"),
        lambda: store.delete("trains"),
    ):
        with pytest.raises(StoreError, match=r"no collection 'trains'.*flights.*create_collection"):
            call()


def test_selection_is_fixed_by_contents_and_seed(tmp_path):
    """Two devices with the same contents choose alike; another seed chooses otherwise."""
    chosen = []
    for name in ("a.db", "b.db"):
        with ExampleStore(tmp_path / name) as store:
            store.create_collection(FLIGHTS)
            store.append("flights", flights(100))
            chosen.append(store.select("flights", limit=10, seed=3).columns["distance"])
            other = store.select("flights", limit=10, seed=4).columns["distance"]
    assert chosen[0] == chosen[1] != other
    assert len(set(chosen[0])) == 10


@settings(max_examples=30, deadline=None)
@given(
    count=st.integers(0, 40), limit=st.integers(0, 45), seed=st.integers(0, 2**32), data=st.data()
)
def test_selection_after_any_deletion(tmp_path_factory, count, limit, seed, data):
    """Any selection has min(limit, count) different rows of the collection that were not deleted."""
    with ExampleStore(tmp_path_factory.mktemp("store") / "a.db") as store:
        store.create_collection(FLIGHTS)
        store.create_collection(Collection("other", {"x": Field("int")}))
        for i in range(count):
            store.append("flights", flights(1, start=i))
            if data.draw(st.booleans()):
                store.append("other", [{"x": i}])
        everything = store.select("flights", limit=1000, seed=0)
        gone = (
            set(data.draw(st.lists(st.sampled_from(everything.ids.tolist())))) if count else set()
        )
        others = store.select("other", limit=1000, seed=0).ids.tolist()
        assert store.delete("flights", ids=[*gone, *others, 10**9]) == len(gone)
        assert store.count("other") == len(others)
        found = store.select("flights", limit=limit, seed=seed)
        kept = dict(zip(everything.ids.tolist(), everything.columns["distance"], strict=True))
        for row in gone:
            del kept[row]
        assert len(found) == min(limit, len(kept))
        assert found.ids.tolist() == sorted(set(found.ids.tolist()))
        assert [kept[row] for row in found.ids.tolist()] == found.columns["distance"]


@pytest.mark.parametrize("limit", [1, 30, 149, 150])
def test_large_and_small_collections_with_gaps_choose_alike(store, monkeypatch, limit):
    """Counting through a large collection ends at the ids that a list of all of them gives."""
    store.append("flights", flights(200))
    store.delete("flights", ids=[1, *range(20, 60), *range(191, 200)])
    chosen = [store.select("flights", limit=limit, seed=seed) for seed in range(5)]
    monkeypatch.setattr(reading, "_PAGE", 0)
    for seed in range(5):
        again = store.select("flights", limit=limit, seed=seed)
        assert again.ids.tolist() == chosen[seed].ids.tolist()
        assert again.columns == chosen[seed].columns


def test_a_ceiling_keeps_later_examples_out(store):
    """With ``up_to``, a selection is the same before and after more were appended."""
    assert store.last_id("flights") == 0
    store.append("flights", flights(50))
    ceiling = store.last_id("flights")
    before = store.select("flights", limit=20, seed=3)
    store.append("flights", flights(50, start=50))
    after = store.select("flights", limit=20, seed=3, up_to=ceiling)
    assert after.ids.tolist() == before.ids.tolist()
    assert store.select("flights", limit=90, seed=3, up_to=ceiling).ids.max() == ceiling
    assert len(store.select("flights", limit=5, seed=3, up_to=0)) == 0


def test_preview_is_what_would_be_taken(store):
    """A preview shows the examples of a selection, one by one, and changes nothing."""
    store.append("flights", flights(30))
    chosen = store.select("flights", limit=4, seed=9).columns
    assert store.preview("flights", limit=4, seed=9) == [
        {"distance": distance, "carrier": carrier}
        for distance, carrier in zip(chosen["distance"], chosen["carrier"], strict=True)
    ]
    assert store.preview("flights", limit=0, seed=9) == []


def test_large_selection_is_read_in_pieces(store):
    """More ids than one statement takes are all found, in order."""
    store.append("flights", flights(3000))
    store.delete("flights", ids=[5])
    found = store.select("flights", limit=2000, seed=1)
    assert len(set(found.ids.tolist())) == 2000
    assert found.columns["distance"] == sorted(found.columns["distance"])


def test_selection_reads_only_what_it_takes(store):
    """A damaged row is met by the seed that chooses it; then it goes, and others are taken."""
    store.append("flights", flights(100))
    with store.database.transaction() as connection:
        connection.execute("UPDATE examples SET payload = x'00' WHERE id = 1")
    damaged = []
    for seed in range(40):
        found = store.select("flights", limit=10, seed=seed)
        assert 1 not in found.ids
        assert len(found) == 10
        damaged.append(store.damaged("flights"))
    assert damaged[0] == 0
    assert damaged[-1] == 1
    assert store.count("flights") == 99


def test_all_rows_unreadable_is_no_damage_of_rows(store):
    """When nothing opens, the key is wrong: an error, and no example is deleted."""
    store.append("flights", flights(10))
    with store.database.transaction() as connection:
        connection.execute("UPDATE examples SET time = time + 1")
    with pytest.raises(StoreDamagedError, match="none of 10 examples can be read"):
        store.select("flights", limit=20, seed=0)
    assert store.count("flights") == 10


@pytest.mark.parametrize(
    "damage",
    [
        "DELETE FROM collection_layouts",
        "UPDATE collection_layouts SET schema = 5",
        "UPDATE collection_layouts SET schema = x'00'",
        "UPDATE collections SET retention = 'text'",
        "UPDATE collections SET retention = x'7b7d7d'",
        "UPDATE collections SET wrapped_key = 1.5",
    ],
)
def test_damaged_declarations_can_be_revoked(tmp_path, damage):
    """A collection whose declaration is damaged is an error, and revoke() starts it afresh."""
    with ExampleStore(tmp_path / "a.db") as store:
        store.create_collection(FLIGHTS)
        store.append("flights", flights(3))
        with store.database.transaction() as connection:
            connection.execute(damage)
    with ExampleStore(tmp_path / "a.db") as store:
        for call in (
            lambda: store.collection("flights"),
            lambda: store.select("flights", limit=1, seed=0),
            lambda: store.append("flights", flights(1)),
        ):
            with pytest.raises(StoreError):
                call()
        assert store.revoke("flights").examples == 3
        store.create_collection(FLIGHTS)
        store.append("flights", flights(1))
        assert store.count("flights") == 1


def test_ids_are_never_used_again(store):
    """An id that a receipt or cursor remembers cannot come to mean another example."""
    store.append("flights", flights(3))
    last = store.select("flights", limit=9, seed=0).ids.max()
    assert store.delete("flights") == 3
    store.append("flights", flights(1))
    assert store.select("flights", limit=9, seed=0).ids.tolist() == [last + 1]


@pytest.mark.parametrize("arguments", [{"limit": -1, "seed": 0}, {"limit": 1, "seed": -1}])
def test_negative_arguments_are_refused(store, arguments):
    """A negative limit or seed is an error, not everything."""
    with pytest.raises(StoreError, match="cannot be negative"):
        store.select("flights", **arguments)


def test_columns_that_quotas_need_are_filled(store, tmp_path):
    """Size and time of creation are kept beside the payload, which is one column."""
    before = time.time()
    store.append("flights", flights(1), times=[7.0])
    plain = sqlite3.connect(tmp_path / "store.db")
    rows = plain.execute(
        "SELECT time, created_at, expires_at, size, payload FROM examples"
    ).fetchall()
    plain.close()
    ((moment, created, expires, size, payload),) = rows
    assert moment == 7.0
    assert before <= created <= time.time()
    assert expires is None
    assert size == len(payload)


def test_threads_append_together(store):
    """Appends of several threads all arrive."""
    threads = [
        threading.Thread(target=lambda: [store.append("flights", flights(5)) for _ in range(10)])
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert store.count("flights") == 200


def row(key, valid_from, **values):
    return FeatureRow(key=key, valid_from=valid_from, values=values)


def test_server_features_come_back_by_key_in_order_of_time(store):
    """Rows of any order are read as history per key; the newest write of one moment wins."""
    store.put_server_features(
        "weather",
        [row("JFK", 9, wind=3.5, fog=None), row("LGA", 1, wind=1), row("JFK", 2, wind=2.0)],
    )
    store.put_server_features("weather", [row("JFK", 9, wind=4.5, fog=True)])
    store.put_server_features("other", [row("JFK", 0, x="y")])
    assert store.server_features("weather") == {
        "JFK": [(2, {"wind": 2.0}), (9, {"wind": 4.5, "fog": True})],
        "LGA": [(1, {"wind": 1})],
    }
    assert store.server_features("weather", keys={"LGA", "BOS"}) == {"LGA": [(1, {"wind": 1})]}
    assert store.server_features("weather", keys=[]) == {}
    assert store.server_features("unknown") == {}
    many = [f"k{i}" for i in range(1200)]
    store.put_server_features("many", [row(key, 0, n=1) for key in many])
    assert set(store.server_features("many", keys=many)) == set(many)


@settings(max_examples=30, deadline=None)
@given(
    st.dictionaries(
        st.text(max_size=8),
        st.none()
        | st.booleans()
        | st.integers(-(2**63), 2**63 - 1)
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(max_size=20),
        max_size=6,
    ),
    st.text(max_size=8),
)
def test_server_values_survive_with_their_types(tmp_path_factory, values, key):
    """Numbers, texts, flags and missing values of a row are what the back end sent."""
    with ExampleStore(tmp_path_factory.mktemp("store") / "a.db") as store:
        store.put_server_features("t", [FeatureRow(key=key, valid_from=1.5, values=values)])
        (((moment, stored),),) = store.server_features("t").values()
    assert moment == 1.5
    assert stored == values
    assert {k: type(v) for k, v in stored.items()} == {k: type(v) for k, v in values.items()}


def test_cursor_is_kept_with_its_rows(store):
    """A batch that fails moves the cursor no further."""
    assert store.server_features_cursor("weather") is None
    store.put_server_features("weather", [row("JFK", 1, wind=1)], cursor="page-2")
    with pytest.raises(StoreError, match="row 1"):
        store.put_server_features(
            "weather", [row("JFK", 2, wind=1), row("JFK", 3, wind=float("nan"))], cursor="page-3"
        )
    assert store.server_features_cursor("weather") == "page-2"
    assert store.server_features("weather") == {"JFK": [(1, {"wind": 1})]}


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (row("k", float("nan"), x=1), "valid_from is not finite"),
        (row("k", 1, x=[1]), "field 'x', row 0: expected a number, text"),
        (row("k", 1, x="y" * 70_000), "at most 65536 bytes"),
    ],
)
def test_bad_server_rows_are_refused(store, bad, message):
    """What the back end may not send is refused before anything is written."""
    with pytest.raises(StoreError, match=message):
        store.put_server_features("weather", [bad])
    assert store.server_features("weather") == {}


@pytest.mark.parametrize("payload", ["x'00'", "x'5b5d'", "'1,2'", "x'7b7d2c7b7d'", "12"])
def test_damaged_server_rows_are_refused(store, payload):
    """A payload that is not one record raises StoreError, whatever it is instead."""
    store.put_server_features("weather", [row("JFK", 1, wind=1)])
    with store.database.transaction() as connection:
        connection.execute(f"UPDATE server_features SET payload = {payload}")
    with pytest.raises(StoreError, match="damaged"):
        store.server_features("weather")


def test_what_is_appended_later_changes_no_selection_up_to_an_id(store):
    """A bounded selection is the same before and after an append, whether it takes some or all."""
    assert store.last_id("flights") == 0
    store.append("flights", flights(30))
    last = store.last_id("flights")
    before = [store.select("flights", limit=n, seed=3, up_to=last).ids.tolist() for n in (7, 99)]
    store.append("flights", flights(30))
    after = [store.select("flights", limit=n, seed=3, up_to=last).ids.tolist() for n in (7, 99)]
    assert before == after
    assert len(after[1]) == 30 < len(store.select("flights", limit=99, seed=3))
