"""Work that waits for cores which nobody else wants.

The private arm's device times should be those of a machine that does nothing else. What runs in the
background beside it therefore gets only what the arm, its back end and its trusted tier leave over.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor, wait
from multiprocessing.sharedctypes import Synchronized
from types import TracebackType
from typing import Any, Concatenate, Final, ParamSpec, Self, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

Advance = Callable[[int], None]
"""Told by how much a stage has come forward."""

_POLL_SECONDS: Final = 0.2

_progress: Synchronized[int]
"""In a worker: how far the one piece of work has come that tells its progress."""


class Background:
    """A few processes of the lowest priority; a context manager.

    If the block fails, what they are at is thrown away.

    Parameters
    ----------
    workers : int
        How many pieces of work run at a time.
    """

    def __init__(self, workers: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._shown = 0
        self._done: Synchronized[int] = context.Value("q", 0)
        self._pool = ProcessPoolExecutor(
            workers, mp_context=context, initializer=_step_back, initargs=(self._done,)
        )

    def submit(self, work: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> Future[R]:
        """Start a piece of work as soon as a process is free."""
        return self._pool.submit(work, *args, **kwargs)

    def submit_shown(
        self,
        work: Callable[Concatenate[Advance, P], R],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> Future[R]:
        """Start a piece of work that tells its progress: one at most."""
        return self._pool.submit(_tell, work, args, kwargs)

    def result(self, future: Future[R], advance: Advance) -> R:
        """Wait for the work of :meth:`submit_shown` and show how far it has come."""
        ended = False
        while not ended:
            ended = bool(wait([future], timeout=_POLL_SECONDS).done)
            done = self._done.value
            advance(done - self._shown)
            self._shown = done
        return future.result()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)
            for process in multiprocessing.active_children():
                process.terminate()
        self._pool.shutdown()


def _step_back(progress: Synchronized[int]) -> None:
    """Leave the cores to whoever wants them."""
    global _progress  # noqa: PLW0603
    _progress = progress
    if hasattr(os, "SCHED_IDLE"):
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    elif hasattr(os, "nice"):
        os.nice(19)


def _tell(work: Callable[..., R], args: tuple[Any, ...], kwargs: dict[str, Any]) -> R:
    return work(_advance, *args, **kwargs)


def _advance(by: int) -> None:
    with _progress.get_lock():
        _progress.value += by
