"""Pause and cancel, as a job sees them: a question that it asks before every batch."""

from __future__ import annotations

import threading


class JobControl:
    """Shared by the thread that works and the one that reads commands."""

    def __init__(self) -> None:
        self._may_go_on = threading.Event()
        self._may_go_on.set()
        self._cancelled = threading.Event()

    def begin(self) -> None:
        """Forget what was said to the job before."""
        self._cancelled.clear()
        self._may_go_on.set()

    def pause(self) -> None:
        """Hold the job before its next batch."""
        self._may_go_on.clear()

    def resume(self) -> None:
        """Let it go on."""
        self._may_go_on.set()

    def cancel(self) -> None:
        """End it before its next batch, also while it is held."""
        self._cancelled.set()
        self._may_go_on.set()

    @property
    def cancelled(self) -> bool:
        """Whether it was told to end."""
        return self._cancelled.is_set()

    def should_stop(self) -> bool:
        """Wait while the job is held; say whether it shall end."""
        self._may_go_on.wait()
        return self._cancelled.is_set()
