"""Serving the back end over HTTP until the process is told to stop."""

from __future__ import annotations

import gc
import socket
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from typing import Final

import uvicorn

from pocketfl_server.api import create_app
from pocketfl_server.back_end import BackEnd
from pocketfl_server.observability.metrics import Metrics
from pocketfl_server.observability.middleware import Observed
from pocketfl_server.observability.traces import Traces
from pocketfl_server.pacing import DEFAULT_PER_SECOND
from pocketfl_server.trusted.client import HttpTrustedTier

MAX_CONCURRENCY: Final = 2048
"""Connections and requests beyond this are answered with 503 at once."""


def serve(
    listener: socket.socket,
    *,
    database_url: str,
    trusted_url: str,
    trusted_token: str,
    trusted_ca: str | None = None,
    plan_keys: Iterable[str | bytes],
    enrolment_key: str,
    operator_key: str,
    rollout_keys: Iterable[str | bytes] | None = None,
    anonymous_only: bool = False,
    arrivals_per_second: float = DEFAULT_PER_SECOND,
    certificate: tuple[str, str] | None = None,
    traces_endpoint: str | None = None,
    ready: Callable[[], None] | None = None,
) -> None:
    """Serve devices and the operator until SIGINT or SIGTERM; prints nothing.

    There is no access log: it would hold addresses beside leases.

    Parameters
    ----------
    listener : socket
        Where to accept connections; several gateways may share one.
    database_url : str
        ``sqlite:///FILE`` or ``postgresql+psycopg://...``.
    trusted_url, trusted_token : str
        The trusted tier and the bearer token that it was started with.
    trusted_ca : str, optional
        PEM file of the authority that signed the trusted tier's certificate.
    plan_keys : iterable of str or bytes
        Ed25519 public keys of the modellers whose plans are served.
    enrolment_key, operator_key : str
        Secrets of apps and of the operator, at least 16 characters each.
    rollout_keys : iterable of str or bytes, optional
        Public keys of those whose rollout documents are taken; the modellers' by default.
    anonymous_only : bool
        Whether devices have to check in with anonymous tokens.
    arrivals_per_second : float
        Check-ins that devices which are turned away are spread to.
    certificate : tuple of (str, str), optional
        PEM files of the certificate and its key: HTTPS. Without, plain HTTP: keep it on loopback, or
        put TLS in front.
    traces_endpoint : str, optional
        Where OpenTelemetry's traces go (OTLP over HTTP); by default nowhere.
    ready : callable, optional
        Called once when all is prepared.

    Raises
    ------
    PocketFLError
        If the database or a key cannot be used.
    OSError
        If the certificate cannot be read.
    """
    with (
        ExitStack() as stack,
        HttpTrustedTier(trusted_url, trusted_token, ca_file=trusted_ca) as trusted,
        BackEnd(
            database_url,
            trusted=trusted,
            plan_keys=plan_keys,
            enrolment_key=enrolment_key,
            rollout_keys=rollout_keys,
            anonymous_only=anonymous_only,
            arrivals_per_second=arrivals_per_second,
        ) as back_end,
    ):
        traces = None if traces_endpoint is None else Traces(traces_endpoint)
        if traces is not None:
            stack.callback(traces.close)
        metrics = Metrics(back_end)
        app = create_app(back_end, operator_key=operator_key, metrics=metrics)
        config = uvicorn.Config(
            Observed(app, metrics=metrics, traces=traces),
            log_config=None,
            access_log=False,
            server_header=False,
            # Nothing here asks for an address.
            proxy_headers=False,
            limit_concurrency=MAX_CONCURRENCY,
            timeout_keep_alive=30,
            ssl_certfile=None if certificate is None else certificate[0],
            ssl_keyfile=None if certificate is None else certificate[1],
        )
        config.load()  # reads the certificate
        # What is there by now stays: looking through it for garbage would keep devices waiting.
        gc.collect()
        gc.freeze()
        if ready is not None:
            ready()
        uvicorn.Server(config).run(sockets=[listener])
