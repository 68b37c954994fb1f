"""Work beside the main arm: out of its way, in order, shown as it goes, and dead with a failure."""

import operator
import os
import resource
import time
from concurrent.futures import CancelledError
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import pytest

from pocketfl_benchmarks.flights.background import Background


def _may_hurry():
    """Return whether the system lets this account go back from the lowest priority."""
    capabilities = next(
        line for line in Path("/proc/self/status").read_text().splitlines() if "CapEff" in line
    )
    cap_sys_nice = int(capabilities.split()[1], 16) >> 23 & 1
    limit = resource.getrlimit(resource.RLIMIT_NICE)[0]
    return cap_sys_nice or limit >= 20 or limit == resource.RLIM_INFINITY


def test_it_is_another_process_that_steps_back():
    """To the lowest priority, until it may hurry; then it comes back, where the system lets it."""
    with Background() as background:
        assert background.submit(os.getpid).result(timeout=200) != os.getpid()
        assert background.submit(os.getpriority, os.PRIO_PROCESS, 0).result(timeout=200) > 0
        background.step_back()
        assert background.submit(os.sched_getscheduler, 0).result(timeout=200) == os.SCHED_IDLE
        background.hurry()
        now = background.submit(os.sched_getscheduler, 0).result(timeout=200)
        assert now == (os.SCHED_OTHER if _may_hurry() else os.SCHED_IDLE)


def test_work_waits_for_word_and_shows_how_far_it_is(tmp_path):
    """What it says of itself adds up, what is sent arrives, and the next piece waits its turn."""
    shown = []
    with Background() as background:
        told = background.submit_talking(operator.methodcaller("advance", 7))
        future = background.submit_talking(operator.methodcaller("receive"))
        after = background.submit(os.getpid)
        assert told.result(timeout=200) is None
        with pytest.raises(TimeoutError):
            after.result(timeout=0.5)
        background.send(tmp_path)
        assert background.result(future, shown.append) == tmp_path
        assert after.result(timeout=200) != os.getpid()
    assert sum(shown) == 7


def test_a_failure_ends_the_work():
    """The block's own error comes out at once, though the work would have gone on for minutes."""
    with pytest.raises(RuntimeError, match="the arm failed"), Background() as background:
        running = background.submit(time.sleep, 600)
        waiting = [background.submit(time.sleep, 600) for _ in range(3)]
        while not running.running():
            time.sleep(0.01)
        raise RuntimeError("the arm failed")
    for future in (running, *waiting):
        with pytest.raises((BrokenProcessPool, CancelledError)):
            future.result(timeout=200)
