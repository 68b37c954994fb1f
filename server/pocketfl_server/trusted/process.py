"""The trusted tier as a process of its own."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterable
from pathlib import Path

import uvicorn

from pocketfl_server.trusted.aggregator import Aggregator
from pocketfl_server.trusted.app import create_trusted_app


def serve(
    ledger_path: str | Path,
    plan_keys: Iterable[str | bytes],
    *,
    host: str = "127.0.0.1",
    port: int = 8001,
    token: str,
    announce: Callable[[str], None] | None = None,
) -> None:
    """Serve until the process is told to stop (SIGINT or SIGTERM); prints nothing.

    The transport is plain HTTP: keep it on loopback or a private network, or put TLS in front.

    Parameters
    ----------
    ledger_path : str or Path
        The durable ledger with the private keys; made if it does not exist.
    plan_keys : iterable of str or bytes
        Ed25519 public keys of the modellers whose plans are served.
    host : str
        Address to listen on.
    port : int
        0 for any free one.
    token : str
        Bearer token that the back end shows.
    announce : callable, optional
        Called once with the URL when connections are accepted.

    Raises
    ------
    LedgerError
        If another process has the ledger, or it cannot be used.
    OSError
        If the address is taken.
    """
    _forbid_core_dumps()
    with Aggregator(ledger_path, plan_keys=plan_keys) as aggregator:
        app = create_trusted_app(aggregator, token=token)
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.create_server((host, port), family=family, backlog=128) as listener:
            if announce is not None:
                shown = f"[{host}]" if ":" in host else host
                announce(f"http://{shown}:{listener.getsockname()[1]}")
            config = uvicorn.Config(app, log_level="warning", access_log=False)
            uvicorn.Server(config).run(sockets=[listener])


def _forbid_core_dumps() -> None:
    """Keep private keys and opened reports out of a crash's memory dump."""
    if os.name == "posix":
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
