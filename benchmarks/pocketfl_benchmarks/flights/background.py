"""Work in a process of its own, out of the way of the main arm, its back end and its trusted tier."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor, wait
from dataclasses import dataclass
from multiprocessing.queues import SimpleQueue
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path
from types import TracebackType
from typing import Any, Concatenate, Final, ParamSpec, Self, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

Advance = Callable[[int], None]
"""Told by how much a stage has come forward."""

_POLL_SECONDS: Final = 0.2
_NICE: Final = 5


@dataclass(frozen=True)
class Talk:
    """What a piece of work has to say and to hear while it runs."""

    _progress: Synchronized[int]
    _letters: SimpleQueue[Path]

    def advance(self, by: int) -> None:
        """Say by how much the work has come forward."""
        with self._progress.get_lock():
            self._progress.value += by

    def receive(self) -> Path:
        """Wait for the file that :meth:`Background.send` names."""
        return self._letters.get()


_talk: Talk
"""In the worker."""


class Background:
    """A process of lower priority that does one piece of work after the other; a context manager.

    If the block fails, what it is at is thrown away.
    """

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._shown = 0
        self._progress: Synchronized[int] = context.Value("q", 0)
        self._letters: SimpleQueue[Path] = context.SimpleQueue()
        self._pool = ProcessPoolExecutor(
            1,
            mp_context=context,
            initializer=_begin,
            initargs=(Talk(self._progress, self._letters),),
        )
        self._worker = self._pool.submit(os.getpid)

    def submit(self, work: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> Future[R]:
        """Have a piece of work done."""
        return self._pool.submit(work, *args, **kwargs)

    def submit_talking(
        self,
        work: Callable[Concatenate[Talk, P], R],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> Future[R]:
        """Have a piece of work done that tells its progress, and that waits for word."""
        return self._pool.submit(_with_talk, work, args, kwargs)

    def step_back(self) -> None:
        """Do what is submitted from now on only while nobody else wants a core."""
        self._pool.submit(_step_back)

    def send(self, file: Path) -> None:
        """Name the file that the work waits for."""
        self._letters.put(file)

    def hurry(self) -> None:
        """Step forward again, where the system allows it: nobody else is left to wait for."""
        if not hasattr(os, "SCHED_IDLE"):
            return
        with contextlib.suppress(OSError):
            for thread in Path(f"/proc/{self._worker.result()}/task").iterdir():
                os.sched_setscheduler(int(thread.name), os.SCHED_OTHER, os.sched_param(0))

    def result(self, future: Future[R], advance: Advance) -> R:
        """Wait for the work of :meth:`submit_talking` and show how far it has come."""
        ended = False
        while not ended:
            ended = bool(wait([future], timeout=_POLL_SECONDS).done)
            done = self._progress.value
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


def _begin(talk: Talk) -> None:
    global _talk  # noqa: PLW0603
    _talk = talk
    if hasattr(os, "nice"):
        os.nice(_NICE)


def _step_back() -> None:
    if hasattr(os, "SCHED_IDLE"):
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))


def _with_talk(work: Callable[..., R], args: tuple[Any, ...], kwargs: dict[str, Any]) -> R:
    return work(_talk, *args, **kwargs)
