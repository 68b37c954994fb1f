"""A ledger that was rolled back forgets what it spent; a device that saw it further on refuses it.

The counter that a trusted tier keeps beside its key rolls back together with the key, so only somebody
else can notice. Each device remembers the newest head that it saw of each key's ledger.
"""

from __future__ import annotations

from typing import Final

from pocketfl.database import Database
from pocketfl.decoding import decode_json, encode_json
from pocketfl.errors import AggregatorRefusedError, DecodeError
from pocketfl.protocol import AggregatorKey, LedgerHead
from pocketfl.sealing import AggregatorVerifier

_STATE: Final = "ledger_head."
_LIMIT: Final = 1024


class HeadGuard:
    """Wraps a verifier: what it trusts must also not have been rolled back.

    Keys that come without a ledger head, such as pinned ones, pass as they are.

    Parameters
    ----------
    verifier : AggregatorVerifier
        Decides about the key first.
    database : Database
        The device's file, which remembers heads.
    """

    def __init__(self, verifier: AggregatorVerifier, database: Database) -> None:
        self._verifier = verifier
        self._database = database

    @property
    def evidence(self) -> str:
        """What the wrapped verifier checks."""
        return self._verifier.evidence

    def verify(self, key: AggregatorKey, *, policy_hash: str, plan_sha256: str) -> bytes:
        """Return the raw public key if it is trusted and its ledger has not gone back.

        Raises
        ------
        AggregatorRefusedError
            If the verifier refuses, or the head is older than one seen before, or another of its age.
        """
        raw = self._verifier.verify(key, policy_hash=policy_hash, plan_sha256=plan_sha256)
        if key.attestation is None:
            return raw
        head = key.attestation.head
        name = _STATE + key.key_id
        # One transaction, so that two rounds at a time cannot both believe to have seen the newest.
        with self._database.transaction():
            seen = self._seen(name)
            if seen is None or head.sequence > seen.sequence:
                self._database.write_state(name, encode_json(head))
                return raw
        if head.sequence < seen.sequence:
            raise AggregatorRefusedError(
                f"the trusted tier's ledger went back from release {seen.sequence} to "
                f"{head.sequence}: it may have forgotten what was spent; nothing is sent"
            )
        if head.digest != seen.digest:
            raise AggregatorRefusedError(
                f"the trusted tier's ledger has two histories with {seen.sequence} releases; nothing "
                "is sent"
            )
        return raw

    def _seen(self, name: str) -> LedgerHead | None:
        kept = self._database.read_state(name)
        if kept is None:
            return None
        try:
            return decode_json(LedgerHead, kept, what="ledger head", limit=_LIMIT)
        except DecodeError:
            raise AggregatorRefusedError(
                "what this device knew of the trusted tier's ledger is damaged; nothing is sent"
            ) from None
