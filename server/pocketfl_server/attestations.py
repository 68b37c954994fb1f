"""What vouches for a task's key, fetched once for each round and kept fresh while the round is open.

A token is asked for when its round has been opened, so the ledger head in it is never older than
that of an earlier round: a device that met both on different gateways would take that for a rollback.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from pocketfl.protocol import AggregatorKey
from pocketfl_server.rounds import RoundFacts
from pocketfl_server.trusted.client import TrustedTier
from pocketfl_server.trusted.refusals import TrustedTierError

logger = logging.getLogger(__name__)

REFRESH_SECONDS: Final = 600.0
"""Tokens are good for an hour on the services that we know."""
STALE_SECONDS: Final = 2400.0
"""A token older than this is not given out any more."""
RETRY_SECONDS: Final = 15.0
"""How long a trusted tier that gave no token is left alone."""
_MAX_REMEMBERED: Final = 1024


class Attestations:
    """Adds attestations to aggregators' keys.

    Parameters
    ----------
    trusted : TrustedTier
        Gives tokens.
    clock : callable
        Returns Unix time in seconds.
    """

    def __init__(self, trusted: TrustedTier, *, clock: Callable[[], float]) -> None:
        self._trusted = trusted
        self._clock = clock
        self._keys: dict[bytes, tuple[AggregatorKey, float]] = {}
        self._asked: dict[bytes, float] = {}
        self._lock = threading.Lock()

    def key(self, facts: RoundFacts) -> AggregatorKey | None:
        """Return a round's key with what vouches for it; None while no token is to be had.

        Waits for the trusted tier only when there is nothing to give out; a token that grows old is
        replaced in the background.
        """
        now = self._clock()
        with self._lock:
            key, fetched = self._keys.get(facts.id, (None, 0.0))
            fresh = key is not None and abs(now - fetched) < REFRESH_SECONDS
            usable = key if abs(now - fetched) < STALE_SECONDS else None
            if fresh or abs(now - self._asked.get(facts.id, float("-inf"))) < RETRY_SECONDS:
                return usable
            self._asked[facts.id] = now
        if usable is None:
            return self._fetch(facts)
        threading.Thread(target=self._fetch, args=(facts,), daemon=True).start()
        return usable

    def _fetch(self, facts: RoundFacts) -> AggregatorKey | None:
        try:
            attestation = self._trusted.attest(facts.task)
        except TrustedTierError as error:
            logger.warning("no attestation for task %s: %s", facts.task, error)
            return None
        key = replace(facts.aggregator, attestation=attestation)
        with self._lock:
            if len(self._keys) >= _MAX_REMEMBERED:
                self._keys.clear()
                self._asked.clear()
            self._keys[facts.id] = (key, self._clock())
        return key
