"""Collections grow: old examples stay readable, and processes that lag behind do no harm."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pocketfl.errors import StoreError
from pocketfl.store import Collection, ExampleStore, Field

FIRST = Collection("notes", {"a": Field("int"), "b": Field("str", optional=True)})
SECOND = Collection("notes", {"c": Field("float", optional=True), **FIRST.fields})
THIRD = Collection("notes", {**SECOND.fields, "d": Field("tensor", shape=(2,), optional=True)})


@pytest.fixture
def store(tmp_path):
    with ExampleStore(tmp_path / "a.db") as opened:
        opened.create_collection(FIRST)
        yield opened


def test_old_examples_lack_new_fields(store):
    """An optional field that is added is None in older examples, in any selection of both."""
    store.append("notes", [{"a": 1, "b": "x"}, {"a": 2}])
    store.create_collection(SECOND)
    store.append("notes", [{"a": 3, "c": 0.5}])
    store.create_collection(THIRD)
    store.append("notes", [{"a": 4, "d": [1, 2]}])
    columns = store.select("notes", limit=9, seed=0).columns
    assert columns["a"] == [1, 2, 3, 4]
    assert columns["b"] == ["x", None, None, None]
    assert columns["c"] == [None, None, 0.5, None]
    assert columns["d"][:3] == [None] * 3
    assert columns["d"][3].tolist() == [1, 2]
    assert store.collection("notes") == THIRD


@pytest.mark.parametrize(
    "fields",
    [
        {"a": Field("int")},
        {**FIRST.fields, "c": Field("float")},
        {**FIRST.fields, "a": Field("float")},
        {"a": Field("int"), "b": Field("str")},
    ],
    ids=["taken away", "needed", "other type", "not optional any more"],
)
def test_other_changes_are_refused(store, fields):
    """What old examples could not satisfy is an error, and the collection stays."""
    with pytest.raises(StoreError, match="only optional fields can be added"):
        store.create_collection(Collection("notes", fields))
    assert store.collection("notes") == FIRST


def test_a_lagging_process_appends_in_the_new_form(store, tmp_path):
    """A connection from before the change writes and reads as the collection is now."""
    with ExampleStore(tmp_path / "a.db") as other:
        other.append("notes", [{"a": 1}])
        store.create_collection(SECOND)
        other.append("notes", [{"a": 2}, {"a": 3, "c": 1.5}])
        assert other.select("notes", limit=9, seed=0).columns["c"] == [None, None, 1.5]
    assert store.select("notes", limit=9, seed=0).columns["a"] == [1, 2, 3]


def test_a_lagging_process_still_checks(store, tmp_path):
    """An example that does not fit is refused whichever form was remembered."""
    with ExampleStore(tmp_path / "a.db") as other:
        assert other.count("notes") == 0
        with pytest.raises(StoreError, match="'c'"):
            other.append("notes", [{"a": 2, "c": 1.0}])
        store.create_collection(SECOND)
        with pytest.raises(StoreError, match="'a'"):
            other.append("notes", [{"a": "x"}])
        assert other.count("notes") == 0


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 3), max_size=25), st.integers(1, 30), st.integers(0, 99))
def test_any_history_of_fields_is_read_back(tmp_path_factory, history, limit, seed):
    """After any sequence of appends and added fields, every selection has each example's values."""
    fields = dict(FIRST.fields)
    expected = {}
    with ExampleStore(tmp_path_factory.mktemp("s") / "a.db", durable=False) as store:
        store.create_collection(FIRST)
        for step, action in enumerate(history):
            if action == 0:
                fields[f"f{step}"] = Field("int", optional=True)
                store.create_collection(Collection("notes", fields))
            else:
                example = {"a": step, **dict.fromkeys(list(fields)[2:][:action], step)}
                store.append("notes", [example])
                expected[store.last_id("notes")] = example
        found = store.select("notes", limit=limit, seed=seed)
        assert len(found) == min(limit, len(expected))
        for place, row in enumerate(found.ids.tolist()):
            values = {name: column[place] for name, column in found.columns.items()}
            assert values == {name: expected[row].get(name) for name in fields}
