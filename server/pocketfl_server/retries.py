"""What could not be done now is tried again, ever less often."""

from __future__ import annotations

from typing import Final, Generic, TypeVar

K = TypeVar("K")

FIRST_SECONDS: Final = 1.0
LONGEST_SECONDS: Final = 60.0


class Retries(Generic[K]):
    """Remembers in memory what failed, and when it is its turn again."""

    def __init__(self) -> None:
        self._waiting: dict[K, tuple[float, float]] = {}

    def is_due(self, what: K, *, now: float) -> bool:
        """Say whether something may be tried; what never failed always may."""
        return now >= self._waiting.get(what, (now, 0.0))[0]

    def failed(self, what: K, *, now: float) -> None:
        """Let something wait, twice as long as the last time."""
        _, delay = self._waiting.get(what, (now, FIRST_SECONDS))
        self._waiting[what] = (now + delay, min(2 * delay, LONGEST_SECONDS))

    def forget(self, what: K) -> None:
        """Let something be tried at once, because it succeeded or is another thing now."""
        self._waiting.pop(what, None)
