"""The device's decision: a key is sealed to only if a valid token vouches for it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final

from pocketfl.attestation.binding import head_nonce, key_nonce, token_keys_nonce
from pocketfl.attestation.claims import Evidence, read_claims
from pocketfl.attestation.issuers import TrustedIssuer, development_issuer
from pocketfl.attestation.tokens import verify_token
from pocketfl.errors import AggregatorRefusedError
from pocketfl.protocol import AggregatorKey, LedgerHead
from pocketfl.sealing import key_id

_REMEMBERED: Final = 64
_REMEMBER_SECONDS: Final = 300.0


class AttestedAggregator:
    """Trusts a key that a token of a trusted attestation service vouches for.

    The token must be signed by a pinned key of a trusted issuer and in force; its image must be on the
    issuer's list, with debugging off; and it must carry the nonces of this very key with the plan's
    privacy policy, and of the ledger head that came with it.

    Parameters
    ----------
    *issuers : TrustedIssuer
        Whom to believe.
    clock : callable, optional
        Unix time in seconds.

    Examples
    --------
    >>> AttestedAggregator()
    Traceback (most recent call last):
    ...
    ValueError: AttestedAggregator needs at least one trusted issuer
    """

    def __init__(self, *issuers: TrustedIssuer, clock: Callable[[], float] = time.time) -> None:
        if not issuers:
            raise ValueError("AttestedAggregator needs at least one trusted issuer")
        names = [issuer.issuer for issuer in issuers]
        if len(set(names)) != len(names):
            raise ValueError("two trusted issuers have the same name")
        self._issuers = issuers
        self._clock = clock
        self._seen: dict[tuple[AggregatorKey, str], float] = {}
        self._lock = threading.Lock()

    @classmethod
    def development(cls, public_key: str) -> AttestedAggregator:
        """Trust a trusted tier that was started for development: its operator can read every report.

        Parameters
        ----------
        public_key : str
            PEM, as the trusted tier wrote it beside its ledger.
        """
        return cls(development_issuer(public_key))

    @property
    def evidence(self) -> str:
        """What is checked before a key is believed, in a few words, for receipts."""
        if any(issuer.service == "development" for issuer in self._issuers):
            return "development token: whoever runs the server can read reports"
        return "attestation token of " + " or ".join(issuer.issuer for issuer in self._issuers)

    def verify(self, key: AggregatorKey, *, policy_hash: str, plan_sha256: str) -> bytes:
        """Return the raw public key if a token vouches for it under this policy.

        Raises
        ------
        AggregatorRefusedError
            Saying which check failed.
        """
        del plan_sha256  # the policy is what bounds privacy; the plan's signature covers the rest
        raw = bytes.fromhex(key.public_key)
        now = self._clock()
        with self._lock:
            if 0 <= now - self._seen.get((key, policy_hash), float("-inf")) < _REMEMBER_SECONDS:
                return raw
        self._check(key, raw, policy_hash, now)
        with self._lock:
            if len(self._seen) >= _REMEMBERED:
                self._seen.clear()
            self._seen[key, policy_hash] = now
        return raw

    def verify_token_keys(self, key: AggregatorKey, *, policy_hash: str, head: LedgerHead) -> None:
        """Return if a token vouches for the key under this policy, and for a directory of token keys.

        Raises
        ------
        AggregatorRefusedError
            Saying which check failed.
        """
        raw = bytes.fromhex(key.public_key)
        evidence = self._check(key, raw, policy_hash, self._clock())
        if token_keys_nonce(raw, head) not in evidence.nonces:
            raise AggregatorRefusedError(
                "the token vouches for other keys of anonymous tokens than the back end shows"
            )

    def _check(self, key: AggregatorKey, raw: bytes, policy_hash: str, now: float) -> Evidence:
        if key_id(raw) != key.key_id:
            raise AggregatorRefusedError(
                "the trusted tier's key id is not the hash of its public key"
            )
        if key.attestation is None:
            raise AggregatorRefusedError(
                "the trusted tier's key came without an attestation token; nothing vouches for it"
            )
        issuer, claims = verify_token(key.attestation.token, self._issuers, now=now)
        evidence = read_claims(issuer.service, claims)
        if evidence.debuggable:
            raise AggregatorRefusedError(
                f"the trusted tier ({evidence.platform}) can be debugged: its operator could "
                "look into it"
            )
        if evidence.image_digest not in issuer.images:
            raise AggregatorRefusedError(
                f"the trusted tier runs the image {evidence.image_digest[:80]!r}, which is not one "
                f"of the {len(issuer.images)} that this app allows"
            )
        if key_nonce(raw, policy_hash) not in evidence.nonces:
            raise AggregatorRefusedError(
                "the token vouches for another key or another privacy policy than this plan's"
            )
        if head_nonce(raw, key.attestation.head) not in evidence.nonces:
            raise AggregatorRefusedError("the token vouches for another ledger head")
        return evidence
