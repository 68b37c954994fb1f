"""Whom a trusted tier believes to be another one."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Final

from pocketfl.attestation import AttestedAggregator
from pocketfl.errors import AggregatorRefusedError
from pocketfl.protocol import AggregatorKey


class DevelopmentPeers:
    """Trusts tiers that vouch for themselves, each by a key of its own; nothing is measured.

    For local runs and tests: whoever runs one of them can read the sums that it opens. Elsewhere, where
    one attestation service vouches for all tiers, an :class:`.AttestedAggregator` serves as it is.

    Parameters
    ----------
    files : iterable of str or Path
        PEM files, as each tier writes one beside its ledger; read when they are needed, so that tiers
        may start in any order.

    Raises
    ------
    ValueError
        If there is none.
    """

    evidence: Final = "development token: whoever runs a tier can read what it opens"

    def __init__(self, files: Iterable[str | Path]) -> None:
        self._files = tuple(Path(file) for file in files)
        if not self._files:
            raise ValueError("name the attestation key of at least one other trusted tier")

    def verify(self, key: AggregatorKey, *, policy_hash: str, plan_sha256: str) -> bytes:
        """Return the raw public key if one of the peers vouches for it.

        Raises
        ------
        AggregatorRefusedError
            What the last of them was refused for.
        """
        refusal = AggregatorRefusedError("no other trusted tier is known here")
        for file in self._files:
            try:
                verifier = AttestedAggregator.development(file.read_text())
                return verifier.verify(key, policy_hash=policy_hash, plan_sha256=plan_sha256)
            except AggregatorRefusedError as error:
                refusal = error
            except (OSError, ValueError) as error:
                refusal = AggregatorRefusedError(f"the key of a peer cannot be read: {error}")
        raise refusal
