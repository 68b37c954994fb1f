"""The cache: content under its hash, within its bounds, in memory and on disk."""

from __future__ import annotations

import threading
from hashlib import sha256

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pocketfl.protocol import Notices
from pocketfl.transport import DownloadCache
from pocketfl.transport.downloads import CachedNotices, Download


def name_of(data: bytes) -> str:
    return sha256(data).hexdigest()


def make_download(data: bytes) -> Download:
    return Download(data, 100, len(data) + 150)


def fetch(cache: DownloadCache, data: bytes) -> bool:
    """Fetch through the cache and return whether it was there."""
    download, was_cached = cache.fetch(name_of(data), lambda: make_download(data))
    assert download == make_download(data)
    return was_cached


def test_content_is_loaded_once() -> None:
    """The second request is served, with the cost of the first."""
    cache = DownloadCache()
    assert [fetch(cache, b"plan") for _ in range(3)] == [False, True, True]


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 60), max_size=40),
    limit=st.integers(0, 150),
)
def test_memory_stays_within_its_bound(sizes, limit) -> None:
    """Whatever is fetched, kept bytes never exceed the bound, and every answer is right."""
    cache = DownloadCache(memory_bytes=limit)
    for size in sizes:
        fetch(cache, bytes([size]) * size)
        kept = sum(len(download.data) for download in cache._memory.values())
        assert kept == cache._memory_used <= limit


def test_the_least_recently_used_goes_first() -> None:
    """Reading renews a copy."""
    cache = DownloadCache(memory_bytes=25)
    one, two, three = b"1" * 10, b"2" * 10, b"3" * 10
    fetch(cache, one)
    fetch(cache, two)
    assert fetch(cache, one)
    fetch(cache, three)
    assert [fetch(cache, one), fetch(cache, two)] == [True, False]


def test_a_folder_survives_a_restart(tmp_path) -> None:
    """Another process finds the content and what it cost."""
    fetch(DownloadCache(directory=tmp_path / "cache"), b"plan")
    assert fetch(DownloadCache(directory=tmp_path / "cache"), b"plan")


@pytest.mark.parametrize("damage", [b"", b"pla", b"Plan", b"plan\0"])
def test_a_damaged_file_is_thrown_away_and_loaded_again(tmp_path, damage) -> None:
    """Content is checked against its name whenever it is read from disk."""
    fetch(DownloadCache(directory=tmp_path), b"plan")
    (path,) = tmp_path.iterdir()
    path.write_bytes(damage)
    assert not fetch(DownloadCache(directory=tmp_path), b"plan")
    assert [file.read_bytes() for file in tmp_path.iterdir()] == [b"plan"]


def test_the_folder_stays_within_its_bound(tmp_path) -> None:
    """Old files make room, the newest stays, and strangers' files are left alone."""
    (tmp_path / "notes.of.mine").write_text("hello")
    cache = DownloadCache(memory_bytes=0, directory=tmp_path, directory_bytes=100)
    for number in range(10):
        fetch(cache, bytes([number]) * 30)
    kept = [path for path in tmp_path.iterdir() if path.name != "notes.of.mine"]
    assert sum(path.stat().st_size for path in kept) <= 100
    assert (tmp_path / "notes.of.mine").read_text() == "hello"
    assert fetch(cache, bytes([9]) * 30)
    fetch(cache, b"x" * 101)
    assert not fetch(cache, b"x" * 101)


def test_a_failed_load_is_not_remembered() -> None:
    """The error reaches the caller, and the next caller tries again."""
    cache = DownloadCache()

    def fail() -> Download:
        raise OSError("no network")

    with pytest.raises(OSError, match="no network"):
        cache.fetch(name_of(b"plan"), fail)
    assert not fetch(cache, b"plan")
    assert cache._busy == {}


def test_threads_that_want_the_same_wait_for_one_load() -> None:
    """Eight threads, one load; other content is not held up."""
    cache = DownloadCache()
    started, release = threading.Event(), threading.Event()
    loads = []

    def slow() -> Download:
        loads.append(1)
        started.set()
        assert release.wait(10)
        return make_download(b"plan")

    threads = [
        threading.Thread(target=cache.fetch, args=(name_of(b"plan"), slow)) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    assert started.wait(10)
    assert not fetch(cache, b"other")
    release.set()
    for thread in threads:
        thread.join(10)
    assert loads == [1]
    assert cache._busy == {}


def test_notices_are_asked_for_again_when_they_are_old() -> None:
    """Within the given seconds the server is left in peace, afterwards or on request it is asked."""
    now = 100.0
    cache = DownloadCache(notices_seconds=5, clock=lambda: now)
    asked = []

    def ask(known: CachedNotices | None) -> CachedNotices:
        asked.append(known)
        return CachedNotices(
            notices=Notices(notices=()), etag='"1"', bytes_up=1, bytes_down=2, bytes_unchanged=1
        )

    def was_cached() -> bool:
        return cache.fetch_notices("http://a", ask)[1]

    assert [was_cached(), was_cached()] == [False, True]
    now = 104.9
    assert was_cached()
    now = 105.1
    assert not was_cached()
    cache.expire_notices()
    assert not was_cached()
    assert asked[0] is None
    assert asked[1].etag == '"1"'
    assert not cache.fetch_notices("http://b", ask)[1]


def test_by_default_notices_are_never_taken_from_the_cache() -> None:
    """A single device hears of a new round at once."""
    cache = DownloadCache(clock=lambda: 1.0)
    found = CachedNotices(
        notices=Notices(notices=()), etag=None, bytes_up=1, bytes_down=2, bytes_unchanged=1
    )
    assert [cache.fetch_notices("u", lambda _: found)[1] for _ in range(3)] == [False] * 3
