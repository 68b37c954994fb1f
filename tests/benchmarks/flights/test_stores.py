"""Stores hold what their aircraft flew, are built once, and a run never writes to the cache."""

import pytest

from pocketfl.store import ExampleStore
from pocketfl_benchmarks.flights import stores
from pocketfl_benchmarks.flights.data import DEVICE_FIELDS
from pocketfl_benchmarks.flights.stores import (
    COLLECTION,
    FRESH_FROM,
    TABLE,
    copy_stores,
    fleet_vault,
    prepare_stores,
    server_rows,
    store_path,
)


@pytest.fixture(scope="module")
def built(archive, tmp_path_factory):
    cache = tmp_path_factory.mktemp("cache")
    done = []
    folder = prepare_stores(archive.read(), cache, progress=done.append, workers=2)
    assert sum(done) == len(archive.read().aircraft)
    return folder


def test_every_aircraft_has_its_own_flights(archive, built):
    """A store holds exactly the flights of its aircraft, and server rows of all but the last days."""
    table = archive.read()
    records = table.records(DEVICE_FIELDS)
    known = server_rows(table, until=FRESH_FROM)
    assert len(list(built.iterdir())) == len(table.aircraft) + 1  # and the key of all
    for aircraft in table.aircraft[::7]:
        span = table.spans[aircraft]
        with ExampleStore(store_path(built, aircraft), vault=fleet_vault(built)) as store:
            examples = store.select(COLLECTION.name, limit=10_000, seed=0)
            features = store.server_features(TABLE)
        found = [
            dict(zip(examples.columns, row, strict=True))
            for row in zip(*examples.columns.values(), strict=True)
        ]
        assert found == records[span]
        assert examples.times.tolist() == table.rows["time"].iloc[span].tolist()
        assert {k: v[0] for k, v in features.items()} == {
            row.key: (row.valid_from, row.values) for row in known[aircraft]
        }


def test_stores_are_built_once(archive, built, monkeypatch):
    """The second run takes what the first one built."""
    monkeypatch.setattr(stores, "_build", pytest.fail)
    assert prepare_stores(archive.read(), built.parent) == built


def test_another_format_or_archive_is_another_cache(archive, built, monkeypatch, tmp_path):
    """What was built from other data, or by another version of the writer, is never taken."""
    monkeypatch.setattr(stores, "STORE_FORMAT", -1)
    monkeypatch.setattr(stores, "_build", lambda *args, **kwargs: None)
    assert prepare_stores(archive.read(), built.parent) != built


def test_a_build_that_fails_leaves_nothing(archive, tmp_path, monkeypatch):
    """Half a folder would be taken for a whole one by the next run."""

    def fail(*args, **kwargs):
        raise OSError("disk full")

    monkeypatch.setattr(stores, "_build", fail)
    with pytest.raises(OSError, match="disk full"):
        prepare_stores(archive.read(), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_runs_write_to_copies(archive, built, tmp_path):
    """What a device writes stays out of the cache."""
    aircraft = archive.read().aircraft[0]
    before = store_path(built, aircraft).read_bytes()
    copy_stores(built, tmp_path / "run", [aircraft])
    with ExampleStore(store_path(tmp_path / "run", aircraft)) as store:
        store.database.write_state("participation.secret", b"x" * 32)
    assert store_path(built, aircraft).read_bytes() == before
