"""The app's own switch: off means no session, now and after every restart, until it is on again."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final

from pocketfl.database import Database

REASON_LIMIT: Final = 200
_STATE: Final = "scheduling.disabled"


class KillSwitch:
    """Stops all training on this device; kept in its file, safe to share between threads.

    Parameters
    ----------
    database : Database
        The device's file.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lock = threading.Lock()
        self._listeners: list[Callable[[str], None]] = []

    @property
    def reason(self) -> str | None:
        """Why training is switched off, or None while it is allowed."""
        kept = self._database.read_state(_STATE)
        return None if kept is None else kept.decode("utf-8", "replace")

    def disable(self, reason: str) -> None:
        """Switch training off, and have a session that runs in this process stop.

        Parameters
        ----------
        reason : str
            A few words for :meth:`Device.explain` and the user, 200 characters at most.
        """
        if not 0 < len(reason) <= REASON_LIMIT:
            raise ValueError(f"give a reason of 1 to {REASON_LIMIT} characters")
        self._database.write_state(_STATE, reason.encode("utf-8", "replace"))
        with self._lock:
            listeners = tuple(self._listeners)
        for listener in listeners:
            listener(reason)

    def enable(self) -> None:
        """Allow training again."""
        self._database.delete_state(_STATE)

    def subscribe(self, listener: Callable[[str], None]) -> Callable[[], None]:
        """Have a function called with the reason when training is switched off.

        Returns
        -------
        callable
            Ends the subscription.
        """
        with self._lock:
            self._listeners.append(listener)

        def end() -> None:
            with self._lock:
                if listener in self._listeners:
                    self._listeners.remove(listener)

        return end
