"""The trusted tier as a process of its own."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import uvicorn

from pocketfl_server.trusted.aggregator import Aggregator
from pocketfl_server.trusted.app import create_trusted_app
from pocketfl_server.trusted.attesters import (
    Attester,
    CommandAttester,
    ConfidentialSpaceAttester,
    DevelopmentAttester,
)
from pocketfl_server.trusted.curves import CHILD_VARIABLE
from pocketfl_server.trusted.peers import DevelopmentPeers
from pocketfl_server.trusted.shards import Sharding
from pocketfl_server.trusted.witness import FileWitness
from pocketfl_server.trusted.workers import forbid_core_dumps

if TYPE_CHECKING:
    from pocketfl_server.trusted.metrics import Metrics


@dataclass(frozen=True, kw_only=True)
class AttestationSettings:
    """Who vouches for the process.

    Attributes
    ----------
    kind : {"development", "confidential-space", "command", "none"}
        ``development`` vouches for itself: its operator can read every report. ``none`` leaves devices
        to pin keys.
    audience : str
        What tokens are issued for; apps expect the same.
    command : tuple of str
        For ``command``: the program that prints a token, with its first arguments.
    """

    kind: Literal["development", "confidential-space", "command", "none"]
    audience: str
    command: tuple[str, ...] = ()

    def attester(self, ledger_path: str | Path) -> Attester | None:
        """Return what gets the tokens; a development key lies beside the ledger."""
        if self.kind == "none":
            return None
        if self.kind == "command":
            return CommandAttester(self.command)
        if self.kind == "confidential-space":
            return ConfidentialSpaceAttester(audience=self.audience)
        return DevelopmentAttester(f"{ledger_path}-attestation", audience=self.audience)


@dataclass(frozen=True, kw_only=True)
class ShardSettings:
    """What this tier is among several.

    Attributes
    ----------
    role : {"root", "shard"}
        Who releases, and who hands over to it.
    name : str
        Of the shard.
    peers : tuple of str
        Files with the attestation keys of the other tiers; they may appear later than this process.
    """

    role: Literal["root", "shard"]
    name: str
    peers: tuple[str, ...]

    def sharding(self) -> Sharding:
        """Return the same with what checks the others' keys."""
        return Sharding(role=self.role, name=self.name, peers=DevelopmentPeers(self.peers))


def serve(
    listener: socket.socket,
    *,
    ledger_path: str | Path,
    plan_keys: Iterable[str | bytes],
    token: str,
    attestation: AttestationSettings,
    witness: str | Path | None = None,
    workers: int = 1,
    sharding: ShardSettings | None = None,
    certificate: tuple[str, str] | None = None,
    metrics_address: tuple[str, int] | None = None,
    ready: Callable[[], None] | None = None,
) -> None:
    """Serve until the process is told to stop (SIGINT or SIGTERM); prints nothing.

    Parameters
    ----------
    listener : socket
        Where to accept connections.
    ledger_path : str or Path
        The durable ledger with the private keys; made if it does not exist.
    plan_keys : iterable of str or bytes
        Ed25519 public keys of the modellers whose plans are served.
    token : str
        Bearer token that the back end shows.
    attestation : AttestationSettings
        Who vouches for this process.
    witness : str or Path, optional
        File of the witness that hears of every release before it is handed over.
    workers : int
        Processes that sum reports; 1 for this process alone.
    sharding : ShardSettings, optional
        What this tier is among several.
    certificate : tuple of (str, str), optional
        PEM files of the certificate and its key: HTTPS. Without, plain HTTP: keep it on loopback or a
        private network, or put TLS in front.
    metrics_address : tuple of (str, int), optional
        Host and port where Prometheus may ask; by default nowhere.
    ready : callable, optional
        Called once when all is prepared.

    Raises
    ------
    LedgerError
        If another process has the ledger, or it cannot be used.
    WitnessError
        If the witness says that the ledger was rolled back.
    OSError
        If the certificate cannot be read, or the address for metrics is taken.
    """
    forbid_core_dumps()
    os.environ[CHILD_VARIABLE] = "1"
    metrics = None if metrics_address is None else _metrics()
    with (
        Aggregator(
            ledger_path,
            plan_keys=plan_keys,
            attester=attestation.attester(ledger_path),
            witness=None if witness is None else FileWitness(witness),
            workers=workers,
            sharding=None if sharding is None else sharding.sharding(),
            observer=metrics,
        ) as aggregator,
        ExitStack() as stack,
    ):
        if metrics is not None and metrics_address is not None:
            host, port = metrics_address
            stack.enter_context(
                metrics.served(aggregator, host=host, port=port, certificate=certificate)
            )
        config = uvicorn.Config(
            create_trusted_app(aggregator, token=token),
            log_config=None,
            access_log=False,
            ssl_certfile=None if certificate is None else certificate[0],
            ssl_keyfile=None if certificate is None else certificate[1],
        )
        config.load()  # reads the certificate
        if ready is not None:
            ready()
        # The first release after a start shall not wait for the accountant.
        threading.Thread(target=aggregator.warm_up, name="warm-up", daemon=True).start()
        uvicorn.Server(config).run(sockets=[listener])


def _metrics() -> Metrics:
    # Loaded where somebody wants them: a tier that nobody watches need not keep the library in memory.
    from pocketfl_server.trusted.metrics import Metrics

    return Metrics()
