"""Processes that sum pages of reports beside one another, for more than one core.

Only this tier's process reads the ledger. It hands sealed pages to its workers, which have the round's
private key for as long as they sum it, and adds up what comes back. As these are whole numbers, that is
the same sum as that of one process.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections import deque
from collections.abc import Iterable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Final

import numpy as np

from pocketfl_server.trusted.refusals import TrustedTierUnavailable
from pocketfl_server.trusted.summing import (
    Page,
    PartialSum,
    RoundOfReports,
    require_room,
    sum_pages,
)

_AHEAD: Final = 2
"""Pages for each worker that are on their way: it never waits, and memory stays bounded."""


class Workers:
    """Sums rounds in one process or several.

    Parameters
    ----------
    count : int
        Worker processes; 1 for none, then the caller's own process sums.

    Attributes
    ----------
    restarts : int
        How often all workers had to be replaced because one had died.
    """

    def __init__(self, count: int = 1) -> None:
        if count < 1:
            raise ValueError(f"workers must be at least 1, not {count}")
        self.count: Final = count
        self._pool: ProcessPoolExecutor | None = None
        self._lock = threading.Lock()
        self.restarts = 0

    def sum(self, reports: RoundOfReports, pages: Iterable[Page]) -> PartialSum:
        """Open, check and sum the reports of a round; see :func:`~.summing.sum_pages`.

        Raises
        ------
        TrustedTierUnavailable
            If a worker died. Nothing is lost: the reports are in the ledger, and the next call starts
            new workers.
        OverflowError
            If so many reports could leave int64.
        """
        if self.count == 1:
            return sum_pages(reports, pages)
        whole = PartialSum(total=np.zeros(reports.length, dtype=np.int64))
        under_way: deque[Future[PartialSum]] = deque()
        try:
            for page in pages:
                under_way.append(self._submit(reports, page))
                if len(under_way) > _AHEAD * self.count:
                    whole.add(under_way.popleft().result())
                    require_room(whole.accepted, reports.norm_bound)
            while under_way:
                whole.add(under_way.popleft().result())
        except BrokenProcessPool:
            self._abandon()
            raise TrustedTierUnavailable(
                "a worker process died while it summed; nothing was released or charged, try again",
                code="worker_died",
            ) from None
        finally:
            for future in under_way:
                future.cancel()
        require_room(whole.accepted, reports.norm_bound)
        return whole

    def _submit(self, reports: RoundOfReports, page: Page) -> Future[PartialSum]:
        try:
            return self._start().submit(sum_pages, reports, [page])
        except OSError as error:
            # A pool closes its pipes when it finds a worker dead, which can be while it starts another.
            raise BrokenProcessPool(str(error)) from error

    def close(self) -> None:
        """End the worker processes."""
        with self._lock:
            pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown(cancel_futures=True)

    def _abandon(self) -> None:
        """End what is left of a pool that lost a worker, without waiting for any of it.

        A worker that was started while the pool broke waits for work on a lock that the dead one may
        hold, and the pool does not always end it by itself: waiting for it would never end.
        """
        with self._lock:
            pool, self._pool = self._pool, None
            if pool is None:
                return
            self.restarts += 1
        left = list((pool._processes or {}).values())  # public from Python 3.14 on: kill_workers()
        pool.shutdown(wait=False, cancel_futures=True)
        for process in left:
            process.kill()

    def _start(self) -> ProcessPoolExecutor:
        with self._lock:
            if self._pool is None:
                # Not by fork: a child must not have the threads and database handles of this process.
                self._pool = ProcessPoolExecutor(
                    self.count,
                    mp_context=multiprocessing.get_context("spawn"),
                    initializer=forbid_core_dumps,
                )
            return self._pool


def forbid_core_dumps() -> None:
    """Keep private keys and opened reports out of a crash's memory dump."""
    if os.name == "posix":
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
