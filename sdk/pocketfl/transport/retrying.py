"""When to ask again, and how long to wait before it.

Waits grow exponentially and are drawn at random over their whole range ("full jitter"), so that
devices which failed together do not come back together. A server's ``Retry-After`` (RFC 9110, section
10.2.3) is honoured as a least wait, up to a bound; beyond it the request fails and says when to come
back.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import TypeVar

from pocketfl.errors import TransportError

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class RetryPolicy:
    """How patient a transport is.

    Attributes
    ----------
    attempts : int
        Failures in a row after which it gives up; 1 never repeats anything.
    first_wait, longest_wait : float
        Bounds in seconds of the random wait after the first failure, and of any.
    longest_retry_after : float
        Longest ``Retry-After`` in seconds that is waited for.
    """

    attempts: int = 4
    first_wait: float = 0.25
    longest_wait: float = 8.0
    longest_retry_after: float = 30.0

    def __post_init__(self) -> None:
        if self.attempts < 1 or not 0 <= self.first_wait <= self.longest_wait:
            raise ValueError("attempts is at least 1, and 0 <= first_wait <= longest_wait")
        if self.longest_retry_after < 0:
            raise ValueError("longest_retry_after cannot be negative")


class FailedAttemptError(Exception):
    """One attempt failed; the policy decides whether there is another.

    Parameters
    ----------
    error : TransportError
        What the caller sees if there is none.
    unprocessed : bool
        Whether the server certainly did not act on the request, so that any request may be repeated.
    progressed : bool
        Whether this attempt got far enough for failures to be counted from zero.
    """

    def __init__(
        self, error: TransportError, *, unprocessed: bool = False, progressed: bool = False
    ) -> None:
        super().__init__(str(error))
        self.error = error
        self.unprocessed = unprocessed
        self.progressed = progressed


class Retrier:
    """Repeats attempts under a policy.

    Parameters
    ----------
    policy : RetryPolicy
        How often and how long.
    sleep : callable, optional
        Waits that many seconds.
    uniform : callable, optional
        Draws between two bounds.
    """

    def __init__(
        self,
        policy: RetryPolicy,
        *,
        sleep: Callable[[float], None] = time.sleep,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._policy = policy
        self._sleep = sleep
        self._uniform = uniform

    def run(self, attempt: Callable[[], T], *, idempotent: bool) -> T:
        """Call an attempt until it succeeds or the policy is exhausted.

        Parameters
        ----------
        attempt : callable
            Raises :class:`FailedAttemptError`, or ``TransportError`` for what no repetition helps.
        idempotent : bool
            Whether repeating is harmless even if the server did act.

        Raises
        ------
        TransportError
            Of the last attempt.
        """
        failures = 0
        while True:
            try:
                return attempt()
            except FailedAttemptError as failure:
                failures = 1 if failure.progressed else failures + 1
                wait = self._wait(failure, failures=failures, idempotent=idempotent)
                if wait is None:
                    raise failure.error from None
            self._sleep(wait)

    def _wait(
        self, failure: FailedAttemptError, *, failures: int, idempotent: bool
    ) -> float | None:
        policy = self._policy
        if failures >= policy.attempts or not failure.error.retryable:
            return None
        if not (idempotent or failure.unprocessed):
            return None
        least = failure.error.retry_after or 0.0
        if least > policy.longest_retry_after:
            return None
        ceiling = min(policy.longest_wait, policy.first_wait * 2.0 ** min(failures - 1, 30))
        return least + self._uniform(0.0, ceiling)


def parse_retry_after(value: str | None, *, now: float) -> float | None:
    """Return the seconds that a ``Retry-After`` header asks for, or None if it says nothing usable.

    Parameters
    ----------
    value : str or None
        Seconds, or a date.
    now : float
        Unix time in seconds, for a date.
    """
    if value is None:
        return None
    text = value.strip()
    if text.isascii() and text.isdecimal() and len(text) <= 9:
        return float(text)
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - now)
    except (ValueError, TypeError, OverflowError):
        return None
