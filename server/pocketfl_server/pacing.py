"""Pace steering: devices that are told to come back are spread so that arrivals stay flat.

A closed round or a pause turns many devices away at once, and windows that all begin at the same
time would bring them all back at once (Bonawitz et al. 2019, arXiv 1902.01046, section 2.3). Each
minute takes as many returns as the operator wants check-ins; who does not fit is sent to a later
one. This is a gateway's own memory and forgets with it: after a restart the spreading starts
afresh.
"""

from __future__ import annotations

import threading
from typing import Final

BUCKET_SECONDS: Final = 60.0
DEFAULT_PER_SECOND: Final = 100.0
_MAX_BUCKETS: Final = 30 * 24 * 60


class Arrivals:
    """Counts who was told to come when.

    Parameters
    ----------
    per_second : float
        Check-ins a second that the back end wants to be sent back to it; above 0.
    """

    def __init__(self, *, per_second: float = DEFAULT_PER_SECOND) -> None:
        if not 0 < per_second <= 1e6:
            raise ValueError(
                f"arrivals per second must be above 0 and at most 1e6, not {per_second}"
            )
        self._capacity = max(1, int(per_second * BUCKET_SECONDS))
        self._counts: dict[int, int] = {}
        self._next: dict[int, int] = {}
        self._lock = threading.Lock()

    def delay(self, *, now: float, after: float) -> float:
        """Take a place for one device and return the seconds from now at which it may come.

        Parameters
        ----------
        now : float
            Unix time in seconds.
        after : float
            Not earlier than so many seconds from now.

        Returns
        -------
        float
            ``after`` itself while its minute has room, else the beginning of the first that has.
        """
        wanted = int((now + after) // BUCKET_SECONDS)
        with self._lock:
            self._forget(int(now // BUCKET_SECONDS))
            bucket = self._first_with_room(wanted)
            self._counts[bucket] = self._counts.get(bucket, 0) + 1
            if self._counts[bucket] >= self._capacity:
                self._next[bucket] = bucket + 1
        return after if bucket == wanted else bucket * BUCKET_SECONDS - now

    def _first_with_room(self, bucket: int) -> int:
        path = []
        while bucket in self._next:
            path.append(bucket)
            bucket = self._next[bucket]
        # Full minutes point past all those that were found full, so a long queue is not walked again.
        for passed in path:
            self._next[passed] = bucket
        return bucket

    def _forget(self, current: int) -> None:
        if len(self._counts) > _MAX_BUCKETS or (self._counts and min(self._counts) < current - 60):
            self._counts = {b: n for b, n in self._counts.items() if b >= current}
            self._next = {b: n for b, n in self._next.items() if b >= current}
