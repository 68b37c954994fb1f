"""Where a shard and the root are, and the secrets to talk to them; each a small TOML file."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path

from pocketfl.protocol import AggregatorKey
from pocketfl_server.operator_client import OperatorClient
from pocketfl_server.trusted.client import HttpTrustedTier


@dataclass(frozen=True, kw_only=True)
class Place:
    """One back end with its trusted tier.

    Attributes
    ----------
    url, trusted_url : str
        Of both.
    operator_key_file, trusted_token_file : Path
        The secrets to talk to them.
    """

    url: str
    trusted_url: str
    operator_key_file: Path
    trusted_token_file: Path

    @classmethod
    def read(cls, path: str | Path) -> Place:
        """Read a file; the names of other files in it are relative to it.

        Raises
        ------
        ValueError
            If a key is missing or unknown.
        """
        file = Path(path)
        table = tomllib.loads(file.read_text())
        names = {"url", "trusted_url", "operator_key_file", "trusted_token_file"}
        if set(table) != names:
            raise ValueError(f"{file}: wanted are {sorted(names)}, not {sorted(table)}")
        return cls(
            url=table["url"],
            trusted_url=table["trusted_url"],
            operator_key_file=file.parent / table["operator_key_file"],
            trusted_token_file=file.parent / table["trusted_token_file"],
        )

    @staticmethod
    def attested_key(trusted: HttpTrustedTier, task: str) -> AggregatorKey:
        """Return a trusted tier's key for a task with what vouches for it."""
        key = trusted.describe(task).key
        return AggregatorKey(
            key_id=key.key_id, public_key=key.public_key, attestation=trusted.attest(task)
        )

    def operator(self) -> OperatorClient:
        """Return a client of the back end."""
        return OperatorClient(self.url, self.operator_key_file.read_text().strip())

    def trusted(self) -> HttpTrustedTier:
        """Return a client of the trusted tier."""
        return HttpTrustedTier(self.trusted_url, self.trusted_token_file.read_text().strip())
