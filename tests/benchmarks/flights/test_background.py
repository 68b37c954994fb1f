"""Work beside the private arm: it waits for its word, shows how far it is, and dies with a failure."""

import operator
import os
import time
from concurrent.futures import CancelledError, wait
from concurrent.futures.process import BrokenProcessPool

import pytest

from pocketfl_benchmarks.flights.background import Background


def test_nothing_is_done_before_the_word():
    """What is submitted waits; then it is done by another process, at the lowest priority."""
    with Background(1) as background:
        future = background.submit(os.getpid)
        assert wait([future], timeout=0.5).not_done
        background.begin()
        worker = future.result(timeout=200)
        assert worker != os.getpid()
        assert background.submit(os.sched_getscheduler, 0).result(timeout=200) == os.SCHED_IDLE


def test_progress_is_shown_to_the_last():
    """What the work says of itself adds up, and its result is returned."""
    shown = []
    with Background(1) as background:
        background.begin()
        future = background.submit_shown(operator.call, 7)
        assert background.result(future, shown.append) is None
    assert sum(shown) == 7


def test_a_failure_ends_the_work():
    """The block's own error comes out at once, though the work would have gone on for minutes."""
    with pytest.raises(RuntimeError, match="the arm failed"), Background(1) as background:
        background.begin()
        running = background.submit(time.sleep, 600)
        waiting = [background.submit(time.sleep, 600) for _ in range(3)]
        while not running.running():
            time.sleep(0.01)
        raise RuntimeError("the arm failed")
    for future in (running, *waiting):
        with pytest.raises((BrokenProcessPool, CancelledError)):
            future.result(timeout=200)
