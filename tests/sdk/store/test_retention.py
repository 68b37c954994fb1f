"""Quotas and expiry: the oldest go first, in bounded steps, and nothing expired is ever taken."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from pocketfl.errors import StoreError
from pocketfl.store import Collection, ExampleStore, Field, Retention
from pocketfl.store import examples as examples_module

FIELDS = {"n": Field("int"), "text": Field("str")}


def notes(retention):
    return Collection("notes", FIELDS, retention)


def rows(start, count, length=0):
    return [{"n": n, "text": "x" * length} for n in range(start, start + count)]


class Clock:
    def __init__(self):
        self.now = 1_000_000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def store(tmp_path, clock):
    with ExampleStore(tmp_path / "a.db", clock=clock) as opened:
        yield opened


def kept(store):
    return store.select("notes", limit=10**6, seed=0).columns["n"]


def test_row_quota_drops_the_oldest(store):
    """With the quota reached, every new example takes the place of the oldest one."""
    store.create_collection(notes(Retention(max_examples=10)))
    for start in range(0, 30, 3):
        store.append("notes", rows(start, 3))
        assert kept(store) == list(range(max(0, start + 3 - 10), start + 3))
    assert store.append("notes", rows(100, 25)) == 25
    assert kept(store) == list(range(115, 125))


def test_byte_quota_counts_what_is_stored(store):
    """The sum of the stored sizes stays within the quota, and as many stay as fit."""
    store.create_collection(notes(Retention(max_bytes=5_000)))
    for start in range(0, 50, 5):
        store.append("notes", rows(start, 5, length=10 * start))
    sizes = [size for (size,) in store.database.query("SELECT size FROM examples ORDER BY id")]
    assert sum(sizes) <= 5_000 < sum(sizes) + sizes[0]
    assert kept(store) == list(range(50 - len(sizes), 50))


def test_an_example_beyond_the_quota_is_refused(store):
    """What could never be kept is an error, and nothing is evicted for it."""
    store.create_collection(notes(Retention(max_bytes=500)))
    store.append("notes", rows(0, 3))
    with pytest.raises(StoreError, match="larger than the quota of 500"):
        store.append("notes", rows(3, 1, length=600))
    assert kept(store) == [0, 1, 2]


def test_no_transaction_evicts_more_than_its_step(store, monkeypatch):
    """After a quota is lowered, appends and evict() get there step by step."""
    monkeypatch.setattr(examples_module, "EVICTION_STEP", 20)
    store.create_collection(notes(Retention()))
    store.append("notes", rows(0, 100))
    store.create_collection(notes(Retention(max_examples=10)))
    assert store.count("notes") == 100
    store.append("notes", rows(100, 1))
    assert store.count("notes") == 80
    assert store.evict() == 70
    assert kept(store) == list(range(91, 101))


def test_quotas_hold_per_collection(store):
    """One collection's quota never costs another one's examples."""
    store.create_collection(notes(Retention(max_examples=2)))
    store.create_collection(Collection("other", FIELDS))
    for n in range(5):
        store.append("other", rows(n, 1))
        store.append("notes", rows(n, 1))
    assert kept(store) == [3, 4]
    assert store.count("other") == 5


def test_expired_examples_are_not_taken(store, clock):
    """From the moment that it expires, an example is neither counted nor selected, and soon gone."""
    store.create_collection(notes(Retention(max_age_seconds=60)))
    store.append("notes", rows(0, 2), times=[5.0, 6.0])
    clock.now += 59
    store.append("notes", rows(2, 2))
    assert kept(store) == [0, 1, 2, 3]
    clock.now += 1
    assert store.count("notes") == 2
    assert kept(store) == [2, 3]
    assert store.database.query("SELECT count(*) FROM examples") == [(2,)]


def test_clock_that_jumps_back_delays_expiry_by_as_much(store, clock):
    """An example appended in a wrong future does not keep later ones from expiring."""
    store.create_collection(notes(Retention(max_age_seconds=60)))
    clock.now += 1e6
    store.append("notes", rows(0, 1))
    clock.now -= 1e6
    store.append("notes", rows(1, 1))
    clock.now += 61
    assert kept(store) == [0]


def test_declaring_another_age_holds_for_what_is_there(store, clock):
    """An app that shortens the age in an update shortens it for old examples as well."""
    store.create_collection(notes(Retention()))
    store.append("notes", rows(0, 1))
    clock.now += 100
    store.create_collection(notes(Retention(max_age_seconds=50)))
    assert kept(store) == []
    store.append("notes", rows(1, 1))
    store.create_collection(notes(Retention()))
    clock.now += 1000
    assert kept(store) == [1]


def test_retention_survives_closing(tmp_path):
    """A limit of None is not the default again after the store was closed."""
    wanted = notes(Retention(max_bytes=None, max_examples=7, max_age_seconds=0.5))
    with ExampleStore(tmp_path / "a.db") as store:
        store.create_collection(wanted)
    with ExampleStore(tmp_path / "a.db") as store:
        assert store.collection("notes").retention == wanted.retention


@pytest.mark.parametrize("limit", ["max_examples", "max_bytes", "max_age_seconds"])
@pytest.mark.parametrize("value", [0, -1, float("inf"), float("nan")])
def test_limits_are_positive(limit, value):
    """A quota of nothing is a mistake, and said so."""
    with pytest.raises(StoreError, match=limit):
        Retention(**{limit: value})


class StoreMachine(RuleBasedStateMachine):
    """Any sequence of appends, deletions, waiting, reopening and new limits against a list."""

    folders = None

    def __init__(self):
        super().__init__()
        self.clock = Clock()
        self.path = self.folders.mktemp("store") / "a.db"
        self.store = ExampleStore(self.path, durable=False, clock=self.clock)
        self.model = []
        self.next = 0

    @initialize(
        max_examples=st.none() | st.integers(1, 12),
        max_bytes=st.none() | st.integers(300, 2_000),
        age=st.none() | st.integers(1, 50),
    )
    def declare(self, max_examples, max_bytes, age):
        self.retention = Retention(
            max_examples=max_examples, max_bytes=max_bytes, max_age_seconds=age
        )
        self.store.create_collection(notes(self.retention))
        self.model = [(n, size, created) for n, size, created in self.model]
        self.store.evict()
        self.trim()

    @rule(max_examples=st.none() | st.integers(1, 12), age=st.none() | st.integers(1, 50))
    def declare_again(self, max_examples, age):
        self.expire()
        self.declare(max_examples, self.retention.max_bytes, age)

    @rule(count=st.integers(0, 6), length=st.integers(0, 100))
    def append(self, count, length):
        self.store.append("notes", rows(self.next, count, length))
        # A bitmap byte, an int, a text's length, the text, nonce and tag.
        size = 1 + 8 + 4 + length + 28
        self.model += [(self.next + i, size, self.clock.now) for i in range(count)]
        self.next += count
        self.trim()

    @rule(seconds=st.integers(1, 30))
    def wait(self, seconds):
        self.clock.now += seconds

    @rule()
    def reopen(self):
        self.store.close()
        self.store = ExampleStore(self.path, durable=False, clock=self.clock)

    @rule(data=st.data())
    @precondition(lambda self: self.model)
    def delete(self, data):
        self.expire()
        found = self.store.select("notes", limit=100, seed=0)
        if not len(found):
            return
        place = data.draw(st.integers(0, len(found) - 1))
        assert self.store.delete("notes", ids=[int(found.ids[place])]) == 1
        del self.model[place]

    @rule()
    def revoke(self):
        erased = self.store.revoke("notes")
        assert erased.examples == len(self.model)
        assert self.store.database.query("SELECT count(*) FROM examples") == [(0,)]
        self.model = []
        self.store.create_collection(notes(self.retention))

    def expire(self):
        age = self.retention.max_age_seconds
        self.store.evict()
        if age is not None:
            self.model = [row for row in self.model if row[2] + age > self.clock.now]

    def trim(self):
        # Quotas are judged as rows lie there; those that expired are still among them.
        while self.retention.max_examples is not None and (
            len(self.model) > self.retention.max_examples
        ):
            del self.model[0]
        while self.retention.max_bytes is not None and (
            sum(size for _, size, _ in self.model) > self.retention.max_bytes
        ):
            del self.model[0]

    @invariant()
    def agrees(self):
        if not hasattr(self, "retention"):
            return
        self.expire()
        assert self.store.count("notes") == len(self.model)
        assert kept(self.store) == [n for n, _, _ in self.model]
        totals = self.store.database.query("SELECT examples, bytes FROM collections")
        assert totals == [(len(self.model), sum(size for _, size, _ in self.model))]

    def teardown(self):
        self.store.close()


def test_store_does_as_a_list_would(tmp_path_factory):
    """Quota, age, revocation and totals hold after any sequence of operations."""
    from hypothesis.stateful import run_state_machine_as_test

    StoreMachine.folders = tmp_path_factory
    run_state_machine_as_test(
        StoreMachine, settings=settings(max_examples=30, stateful_step_count=25, deadline=None)
    )
