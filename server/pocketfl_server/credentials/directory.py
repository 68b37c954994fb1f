"""Has the trusted tier vouch for token keys, and keeps what it answered for a while."""

from __future__ import annotations

import threading
from collections.abc import Callable
from hashlib import sha256
from typing import Final, TypeVar

from pocketfl.protocol import TokenKey
from pocketfl_server.attestations import REFRESH_SECONDS, RETRY_SECONDS, STALE_SECONDS
from pocketfl_server.trusted.client import TrustedTier
from pocketfl_server.trusted.messages import PublishedTokenKeys, TokenKeyDigest
from pocketfl_server.trusted.refusals import TrustedTierError

T = TypeVar("T")

_MAX_REMEMBERED: Final = 1024


class PublicDirectory:
    """What vouches for each task's keys; asked for when keys are new and when it grows old.

    Parameters
    ----------
    trusted : TrustedTier
        Keeps the directory.
    clock : callable
        Returns Unix time in seconds.
    """

    def __init__(self, trusted: TrustedTier, *, clock: Callable[[], float]) -> None:
        self._trusted = trusted
        self._clock = clock
        self._lock = threading.Lock()
        self._answers: dict[str, tuple[tuple[TokenKey, ...], float, PublishedTokenKeys]] = {}
        self._refusals: dict[str, tuple[tuple[TokenKey, ...], float, TrustedTierError]] = {}

    def publish(self, task: str, keys: tuple[TokenKey, ...]) -> PublishedTokenKeys:
        """Return what vouches for a task's keys.

        Raises
        ------
        TrustedTierError
            If the trusted tier refuses or cannot be reached; it is asked again after a while.
        """
        # One at a time: whoever else wants the same finds the answer then.
        with self._lock:
            now = self._clock()
            known, asked, answer = self._answers.get(task, ((), 0.0, None))
            age = abs(now - asked)
            usable = answer if known == keys and age < STALE_SECONDS else None
            if usable is not None and age < REFRESH_SECONDS:
                return usable
            refused, when, refusal = self._refusals.get(task, ((), 0.0, None))
            if refusal is None or refused != keys or abs(now - when) >= RETRY_SECONDS:
                try:
                    answer = self._trusted.publish_token_keys(task, [_digest(key) for key in keys])
                except TrustedTierError as error:
                    refusal = error
                    self._remember(self._refusals, task, (keys, now, error))
                else:
                    self._remember(self._answers, task, (keys, now, answer))
                    return answer
            if usable is None:
                raise refusal
            return usable

    @staticmethod
    def _remember(where: dict[str, T], task: str, what: T) -> None:
        if len(where) >= _MAX_REMEMBERED:
            where.clear()
        where[task] = what


def _digest(key: TokenKey) -> TokenKeyDigest:
    return TokenKeyDigest(
        first_round=key.first_round,
        last_round=key.last_round,
        sha256=sha256(bytes.fromhex(key.public_key)).hexdigest(),
    )
