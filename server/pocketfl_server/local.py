"""A whole deployment on this machine: back end and trusted tier as two processes on loopback.

For the demo, examples and tests. It is the real thing but for its place: both processes run under one
account and the trusted tier vouches for itself, so whoever owns the account can read everything.
"""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import urllib3

from pocketfl.errors import PocketFLError
from pocketfl_server.operator_client import OperatorClient

START_SECONDS: Final = 60.0
STOP_SECONDS: Final = 20.0


class DeploymentError(PocketFLError):
    """A local process did not start; the message ends with what it said."""


class LocalDeployment:
    """Starts back end and trusted tier on free ports with fresh secrets, and stops them.

    Parameters
    ----------
    directory : str or Path
        Where database, ledger, secrets and logs go; made if it does not exist. A deployment that is
        started again on the same directory goes on where it stopped, with the same secrets.
    plan_keys : iterable of str
        Ed25519 public keys of modellers, 64 hex digits each.
    database_url : str, optional
        By default a SQLite file in the directory.
    anonymous_only : bool
        Whether devices have to check in with anonymous tokens.

    Attributes
    ----------
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
    ) -> None:
        self._anonymous_only = anonymous_only
        self.directory = Path(directory).resolve()
        self._plan_keys = tuple(plan_keys)
        self._database_url = database_url or f"sqlite:///{self.directory / 'back_end.db'}"
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

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
        self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.operator_key = self._secret("operator-key")
        self.enrolment_key = self._secret("enrolment-key")
        self._secret("trusted-token")
        try:
            self.start_trusted_tier()
            self.start_back_end()
        except BaseException:
            self.stop()
            raise
        self.operator = OperatorClient(self.url, self.operator_key)

    def start_trusted_tier(self) -> None:
        """Start the trusted tier alone; :meth:`start` does both."""
        self.trusted_url = self._start(
            "trusted",
            "--ledger",
            str(self.directory / "ledger.db"),
            "--witness",
            str(self.directory / "witness.log"),
            *self._secret_files("trusted-token"),
        )
        self._wait_for("trusted", self.trusted_url + "/health")

    def start_back_end(self) -> None:
        """Start the back end alone; :meth:`start` does both."""
        self.url = self._start(
            "run",
            "--database",
            self._database_url,
            "--trusted-url",
            self.trusted_url,
            *(["--anonymous-only"] if self._anonymous_only else []),
            *self._secret_files("operator-key", "enrolment-key", "trusted-token"),
        )
        self._wait_for("run", self.url + "/v1/health")

    @property
    def attestation_key(self) -> str:
        """Public key (PEM) of the development attester."""
        return (self.directory / "ledger.db-attestation.pub").read_text()

    def stop(self) -> None:
        """Stop both processes; what devices were promised stays on disk."""
        if hasattr(self, "operator"):
            self.operator.close()
        for command in ("run", "trusted"):
            self.stop_process(command)

    def stop_process(self, command: str, *, kill: bool = False) -> None:
        """Stop one process, "run" or "trusted"; ``kill`` gives it no time to put things in order."""
        process = self._processes.pop(command, None)
        if process is None:
            return
        process.send_signal(signal.SIGKILL if kill else signal.SIGTERM)
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdin is not None:
            process.stdin.close()

    def log(self, command: str) -> str:
        """Return what a process has written so far."""
        path = self._log_path(command)
        return path.read_text(errors="replace") if path.exists() else ""

    def _start(self, command: str, *options: str) -> str:
        url_file = self.directory / f"{command}.url"
        url_file.unlink(missing_ok=True)
        arguments = [sys.executable, "-m", "pocketfl_server", command, "--port", "0", *options]
        for key in self._plan_keys:
            arguments += ["--plan-key", key]
        with self._log_path(command).open("ab") as log:
            self._processes[command] = subprocess.Popen(  # noqa: S603 - our own program
                [*arguments, "--url-file", str(url_file), "--until-stdin-closes"],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for the driver, which then stops them in order
            )
        deadline = time.monotonic() + START_SECONDS
        while not url_file.exists():
            self._check_alive(command, deadline)
            time.sleep(0.02)
        return url_file.read_text()

    def _wait_for(self, command: str, url: str) -> None:
        deadline = time.monotonic() + START_SECONDS
        with urllib3.PoolManager(retries=False, timeout=5.0) as pool:
            while True:
                try:
                    if pool.request("GET", url).status < 300:
                        return
                except urllib3.exceptions.HTTPError:
                    pass
                self._check_alive(command, deadline)
                time.sleep(0.02)

    def _check_alive(self, command: str, deadline: float) -> None:
        process = self._processes[command]
        if process.poll() is not None or time.monotonic() > deadline:
            state = "stays silent" if process.poll() is None else f"ended ({process.returncode})"
            raise DeploymentError(
                f"'pocketfl server {command}' {state}; its log ends with: {self.log(command)[-2000:]}"
            )

    def _secret(self, name: str) -> str:
        path = self.directory / name
        if not path.exists():
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w") as file:
                file.write(secrets.token_urlsafe(32))
        return path.read_text()

    def _secret_files(self, *names: str) -> list[str]:
        return [part for name in names for part in (f"--{name}-file", str(self.directory / name))]

    def _log_path(self, command: str) -> Path:
        return self.directory / f"{command}.log"
