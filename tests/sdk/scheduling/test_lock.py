"""One session at a time, over threads and processes, however the other one ends."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from pocketfl.errors import StoreError
from pocketfl.scheduling import SessionLock

HOLD = """
import sys
from pocketfl.scheduling import SessionLock
assert SessionLock(sys.argv[1]).acquire()
print("held", flush=True)
sys.stdin.read()
"""


def test_a_lock_is_held_by_one(path: Path) -> None:
    """A second one of the same process is refused until the first is given back."""
    first, second = SessionLock(path), SessionLock(path)
    assert first.acquire()
    assert not first.acquire()
    assert not second.acquire()
    first.release()
    first.release()
    with second:
        assert second.acquire()
        assert not first.acquire()
    assert first.acquire()
    first.release()


def test_a_process_that_is_killed_gives_its_lock_back(open_scheduler, device, path) -> None:
    """While another process has its session nothing runs here; after its SIGKILL it does."""
    scheduler = open_scheduler()
    other = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        assert scheduler.run_due() == ()
        assert scheduler.decide().due
        other.kill()
    assert len(scheduler.run_due()) == 1
    assert device.asked == [None]


def test_threads_do_not_run_two_sessions(open_scheduler, device) -> None:
    """A second call while one is under way returns at once."""
    scheduler = open_scheduler()
    inside: list[tuple] = []
    device.during = lambda: inside.append(scheduler.run_due())
    threads = [threading.Thread(target=scheduler.run_due) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert inside == [()]
    assert device.asked == [None]


def test_a_folder_that_cannot_hold_a_lock_is_an_error(tmp_path: Path) -> None:
    """The message names the file and what must be so."""
    with pytest.raises(StoreError, match=r"device\.db\.session.*writable"):
        SessionLock(tmp_path / "missing" / "device.db").acquire()


def test_the_lock_s_file_stays_and_is_the_owner_s(path: Path) -> None:
    """Deleting it would let two processes hold two files of one name."""
    lock = SessionLock(path)
    lock.acquire()
    lock.release()
    assert lock.path.stat().st_size == 0
    assert lock.path.stat().st_mode & 0o077 == 0
