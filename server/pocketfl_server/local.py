"""A whole deployment on this machine: back end and trusted tier as two processes on loopback.

For the demo, examples and tests. It is the real thing but for its place: both processes run under one
account and the trusted tier vouches for itself, so whoever owns the account can read everything.
"""

from __future__ import annotations

import json
import os
import secrets
import subprocess
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Self

from pocketfl_server.deployment.settings import read_settings
from pocketfl_server.deployment.supervisor import GATEWAY, TRUSTED_TIER, Supervisor
from pocketfl_server.operator_client import OperatorClient


class LocalDeployment:
    """Starts back end and trusted tier on free ports with fresh secrets, and stops them.

    Parameters
    ----------
    directory : str or Path
        Where settings, database, ledger, secrets and logs go; made if it does not exist. A deployment
        that is started again on the same directory goes on where it stopped, with the same secrets.
    plan_keys : iterable of str
        Ed25519 public keys of modellers, 64 hex digits each.
    database_url : str, optional
        By default a SQLite file in the directory.
    anonymous_only : bool
        Whether devices have to check in with anonymous tokens.
    gateways : int
        Processes of the back end, at one address; more than one need PostgreSQL.

    Attributes
    ----------
    database_url : str
        Of its database.
    url : str
        Where devices and the operator find the back end.
    operator_key, enrolment_key : str
        The secrets.
    attestation_key : str
        Public key (PEM) of the development attester, for :meth:`.AttestedAggregator.development`.
    operator : OperatorClient
        A client with the operator key.
    """

    url: str
    trusted_url: str
    operator: OperatorClient

    def __init__(
        self,
        directory: str | Path,
        *,
        plan_keys: Iterable[str],
        database_url: str | None = None,
        anonymous_only: bool = False,
        gateways: int = 1,
    ) -> None:
        self._gateways = gateways
        self._anonymous_only = anonymous_only
        self.directory = Path(directory).resolve()
        self._plan_keys = tuple(plan_keys)
        self.database_url = database_url or f"sqlite:///{self.directory / 'back_end.db'}"
        self._supervisor: Supervisor | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start both processes and wait until they answer.

        Raises
        ------
        DeploymentError
            If one ends or stays silent.
        """
        self.prepare()
        try:
            self.start_trusted_tier()
            self.start_back_end()
        except BaseException:
            self.stop()
            raise

    def prepare(self) -> Path:
        """Write secrets and settings without starting anything; returns the file of settings."""
        self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.operator_key = self._secret("operator-key")
        self.enrolment_key = self._secret("enrolment-key")
        self._secret("trusted-token")
        path = self.directory / "pocketfl.toml"
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write(self._settings())
        self._supervisor = Supervisor(path, read_settings(path), logs=self.directory)
        return path

    def start_trusted_tier(self) -> None:
        """Start the trusted tier alone; :meth:`start` does both."""
        self._running().start_trusted_tier()
        self.trusted_url = self._running().trusted_url

    def start_back_end(self) -> None:
        """Start the back end alone; :meth:`start` does both."""
        self._running().start_gateways()
        self.url = self._running().url
        self.operator = OperatorClient(self.url, self.operator_key)

    @property
    def processes(self) -> dict[str, subprocess.Popen[bytes]]:
        """What runs, by name: ``trusted``, ``gateway``, ``gateway-2`` and so on."""
        return {} if self._supervisor is None else self._supervisor.processes

    @property
    def attestation_key(self) -> str:
        """Public key (PEM) of the development attester."""
        return (self.directory / "ledger.db-attestation.pub").read_text()

    def stop(self) -> None:
        """Stop both processes; what devices were promised stays on disk."""
        if hasattr(self, "operator"):
            self.operator.close()
        if self._supervisor is not None:
            self._supervisor.stop()

    def stop_process(self, name: str, *, kill: bool = False) -> None:
        """Stop one of the processes; ``kill`` gives it no time to put things in order.

        Raises
        ------
        ValueError
            If no process can have that name.
        """
        if name.partition("-")[0] not in (GATEWAY, TRUSTED_TIER):
            raise ValueError(f"{name!r} is not one of {GATEWAY!r} and {TRUSTED_TIER!r}")
        self._running().stop_process(name, kill=kill)

    def restart_killed(self, name: str) -> None:
        """Kill one process, "gateway" or "trusted", and start it again where the others look for it.

        Raises
        ------
        DeploymentError
            If it does not come back, such as because another program took its port meanwhile.
        """
        self._running().keep_ports()
        self.stop_process(name, kill=True)
        if name == TRUSTED_TIER:
            self.start_trusted_tier()
        else:
            self._running().start_gateways()

    def log(self, name: str) -> str:
        """Return what a process, "gateway" or "trusted", has written so far."""
        return self._running().log(name)

    def _running(self) -> Supervisor:
        if self._supervisor is None:
            raise ValueError("the deployment has not been started")
        return self._supervisor

    def _settings(self) -> str:
        """Return the file that ``pocketfl serve`` would read."""
        keys = ", ".join(json.dumps(key) for key in self._plan_keys)
        return f"""\
plan_keys = [{keys}]
trusted_token_file = "trusted-token"

[back_end]
database = {json.dumps(self.database_url)}
port = 0
gateways = {self._gateways}
anonymous_only = {str(self._anonymous_only).lower()}
operator_key_file = "operator-key"
enrolment_key_file = "enrolment-key"

[trusted_tier]
ledger = "ledger.db"
witness = "witness.log"
port = 0
"""

    def _secret(self, name: str) -> str:
        path = self.directory / name
        if not path.exists():
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w") as file:
                file.write(secrets.token_urlsafe(32))
        return path.read_text()
