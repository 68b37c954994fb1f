"""Work in processes that get what the private arm, its back end and its trusted tier leave over."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor, wait
from multiprocessing.sharedctypes import Synchronized
from multiprocessing.synchronize import Event
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

    Nothing is done before :meth:`begin`. If the block fails, what they are at is thrown away.

    Parameters
    ----------
    workers : int
        How many pieces of work run at a time.
    """

    def __init__(self, workers: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._shown = 0
        self._done: Synchronized[int] = context.Value("q", 0)
        self._begun = context.Event()
        self._pool = ProcessPoolExecutor(
            workers,
            mp_context=context,
            initializer=_step_back,
            initargs=(self._done, self._begun),
        )

    def begin(self) -> None:
        """Let the work begin; once more changes nothing."""
        self._begun.set()

    def submit(self, work: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> Future[R]:
        """Have a piece of work done."""
        return self._pool.submit(work, *args, **kwargs)

    def submit_shown(
        self,
        work: Callable[Concatenate[Advance, P], R],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> Future[R]:
        """Have a piece of work done that tells its progress: one at most."""
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


def _step_back(progress: Synchronized[int], begun: Event) -> None:
    """Leave the cores to whoever wants them, and wait for the word to begin."""
    global _progress  # noqa: PLW0603
    _progress = progress
    if hasattr(os, "SCHED_IDLE"):
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    elif hasattr(os, "nice"):
        os.nice(19)
    begun.wait()


def _tell(work: Callable[..., R], args: tuple[Any, ...], kwargs: dict[str, Any]) -> R:
    return work(_advance, *args, **kwargs)


def _advance(by: int) -> None:
    with _progress.get_lock():
        _progress.value += by
