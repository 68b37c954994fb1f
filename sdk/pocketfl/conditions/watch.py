"""Keeps an eye on the conditions while a session trains, and ends it when they break."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import tzinfo
from types import TracebackType
from typing import Final, Self

from pocketfl.conditions.checking import check_conditions
from pocketfl.conditions.signals import SignalProvider
from pocketfl.conditions.spec import ConditionSpec
from pocketfl.reasons import Reason


class ConditionWatch:
    """Polls signals at a bounded rate for one training session; a context manager.

    A breach stops the session at its next batch, for good: :meth:`should_stop` says True from then on,
    even if the condition is met again. Where a batch takes longer than the grace period, a thread sees
    the breach and calls ``on_hard_stop``, again at every look until the loop has asked or the breach is
    over.

    Parameters
    ----------
    provider : SignalProvider
        Asked at most once per ``every_seconds``; its ``read`` must not take longer than a second or so,
        as the loop waits for it.
    spec : ConditionSpec
        The plan's conditions, tightened by the app's. They are taken to hold when the watch is made:
        check them before, as the first look comes ``every_seconds`` later.
    clock : callable, optional
        Unix time in seconds, for the windows and the rate.
    timezone : tzinfo, optional
        Of the windows' hours; the system's local time by default.
    every_seconds : float
        Least time between two looks, in seconds; 0 looks before every batch.
    grace_seconds : float
        How long a breach may last, in real seconds, before a loop that has not asked is stopped.
    on_hard_stop : callable, optional
        Ends the step under way, such as ``Runtime.cancel``, from the watch's thread; False means that
        it could not. Without one there is no thread.

    Attributes
    ----------
    hard_stops : int
        How often ``on_hard_stop`` was called and did not return False.
    hard_stop_error : Exception or None
        What it raised; it is not called again after that.

    Raises
    ------
    ValueError
        If a duration is negative, or ``every_seconds`` is 0 and a thread would spin.
    """

    def __init__(
        self,
        provider: SignalProvider,
        spec: ConditionSpec,
        *,
        clock: Callable[[], float] = time.time,
        timezone: tzinfo | None = None,
        every_seconds: float = 2.0,
        grace_seconds: float = 5.0,
        on_hard_stop: Callable[[], object] | None = None,
    ) -> None:
        if every_seconds < 0 or grace_seconds < 0:
            raise ValueError("every_seconds and grace_seconds must be at least 0")
        if on_hard_stop is not None and every_seconds == 0:
            raise ValueError("with on_hard_stop, every_seconds must be above 0")
        self._provider = provider
        self._spec = spec
        self._clock = clock
        self._timezone = timezone
        self._every: Final = every_seconds
        self._grace: Final = grace_seconds
        self._on_hard_stop = on_hard_stop
        self._looked_at = clock()
        self._reasons: tuple[Reason, ...] = ()
        self._told = False
        self._lock = threading.RLock()
        self._over = threading.Event()
        self._thread: threading.Thread | None = None
        self.hard_stops = 0
        self.hard_stop_error: Exception | None = None

    @property
    def reasons(self) -> tuple[Reason, ...]:
        """Why the session has to stop: all conditions that broke at the first breach."""
        return self._reasons

    def should_stop(self) -> bool:
        """Return whether training must end here; for ``train_locally``, before every batch."""
        with self._lock:
            # A clock that was set back would otherwise silence the watch until it catches up.
            if not self._reasons and not 0 <= self._clock() - self._looked_at < self._every:
                self._look()
            self._told = bool(self._reasons)
            return self._told

    def _look(self) -> bool:
        now = self._clock()
        self._looked_at = now
        found = check_conditions(self._provider, self._spec, now=now, timezone=self._timezone)
        if not self._reasons:
            self._reasons = found
        return bool(found)

    def _guard(self) -> None:
        breached_at: float | None = None
        wait = self._every
        while not self._over.wait(wait):
            # Held while stopping too: once the loop was told to stop, nothing is cancelled any more.
            with self._lock:
                if self._told:
                    return
                wait = self._every
                if not self._look():
                    breached_at = None
                    continue
                now = time.monotonic()
                breached_at = now if breached_at is None else breached_at
                left = breached_at + self._grace - now
                if left > 0:
                    wait = min(wait, left)
                elif not self._hard_stop():
                    return

    def _hard_stop(self) -> bool:
        assert self._on_hard_stop is not None  # noqa: S101 - the thread runs only with one
        try:
            if self._on_hard_stop() is not False:
                self.hard_stops += 1
        except Exception as error:  # Shown by the session that owns the watch.
            self.hard_stop_error = error
            return False
        return True

    def close(self) -> None:
        """End the thread, if there is one; afterwards nothing is cancelled any more."""
        self._over.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def __enter__(self) -> Self:
        if self._on_hard_stop is not None and self._thread is None:
            self._thread = threading.Thread(
                target=self._guard, name="pocketfl conditions", daemon=True
            )
            self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
