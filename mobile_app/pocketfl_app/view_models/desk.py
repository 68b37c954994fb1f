"""Work that must not hold up the screen: one thread, and results handed back to the UI thread."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from kivy.clock import Clock

from pocketfl.errors import PocketFLError

T = TypeVar("T")
log = logging.getLogger(__name__)


def on_ui_thread(call: Callable[[], object]) -> None:
    """Have something called by the UI thread, at its next frame."""
    Clock.schedule_once(lambda _: call(), 0)


class Desk:
    """Does one thing after the other, off the UI thread.

    Parameters
    ----------
    name : str
        Of the thread.
    failed : callable
        Told on the UI thread of an error that the caller did not ask to be told of.
    """

    def __init__(self, name: str, *, failed: Callable[[Exception], None]) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._failed = failed
        self._lock = threading.Lock()
        self._open = 0

    @property
    def idle(self) -> bool:
        """Whether everything is done and handed back."""
        return self._open == 0

    def run(
        self,
        work: Callable[[], T],
        then: Callable[[T], object] | None = None,
        *,
        failed: Callable[[Exception], object] | None = None,
    ) -> None:
        """Do something; its result goes to ``then``, an error to ``failed``, both on the UI thread."""
        with self._lock:
            self._open += 1

        def call() -> None:
            try:
                result = work()
            except Exception as problem:
                if not isinstance(problem, PocketFLError):
                    log.exception("work off the UI thread failed")
                error = problem
                on_ui_thread(lambda: self._hand_over(lambda: (failed or self._failed)(error)))
            else:
                on_ui_thread(lambda: self._hand_over(lambda: then(result) if then else None))

        try:
            self._pool.submit(call)
        except RuntimeError:  # The app is closing.
            with self._lock:
                self._open -= 1

    def close(self) -> None:
        """Do what is left, and end the thread."""
        self._pool.shutdown(wait=True)

    def _hand_over(self, call: Callable[[], object]) -> None:
        with self._lock:
            self._open -= 1
        call()
