"""What a process of a deployment does; :mod:`.supervisor` starts it.

``python -m pocketfl_server.deployment.processes KIND FILE LISTENER READY [--trusted-url URL]``:
KIND is ``trusted`` or ``gateway``, FILE the settings, and the two numbers are open file descriptors,
of the socket to accept from and of the pipe in which to say that it is done starting.
"""

from __future__ import annotations

import os
import socket
import sys
from argparse import ArgumentParser
from collections.abc import Callable
from pathlib import Path

from pocketfl.errors import PocketFLError
from pocketfl_server.deployment.lifeline import end_with_stdin
from pocketfl_server.deployment.settings import Settings, read_secret, read_settings
from pocketfl_server.observability.logs import configure_logs


def main() -> None:
    """Run one process until SIGTERM, or until its starter is gone."""
    parser = ArgumentParser()
    parser.add_argument("kind", choices=("trusted", "gateway"))
    parser.add_argument("file", type=Path)
    parser.add_argument("listener", type=int)
    parser.add_argument("ready", type=int)
    parser.add_argument("--trusted-url", default="")
    given = parser.parse_args()
    end_with_stdin()

    def ready() -> None:
        os.write(given.ready, b"1")
        os.close(given.ready)

    try:
        settings = read_settings(given.file)
        logs = settings.logs
        configure_logs(process=given.kind, form=logs.format, level=logs.level)
        with socket.socket(fileno=given.listener) as listener:
            if given.kind == "trusted":
                _trusted_tier(settings, listener, ready)
            else:
                _gateway(settings, listener, ready, trusted_url=given.trusted_url)
    except (PocketFLError, OSError, ValueError) as error:
        sys.exit(f"error: {error}")


def _gateway(
    settings: Settings, listener: socket.socket, ready: Callable[[], None], *, trusted_url: str
) -> None:
    from pocketfl_server.serving import serve

    table = settings.back_end
    if table is None:
        raise ValueError("the settings have no [back_end]")
    serve(
        listener,
        database_url=table.database,
        trusted_url=trusted_url,
        trusted_ca=table.trusted_ca,
        trusted_token=read_secret("trusted_token", settings.trusted_token_file),
        plan_keys=settings.plan_keys,
        rollout_keys=settings.rollout_keys or None,
        enrolment_key=read_secret("enrolment_key", table.enrolment_key_file),
        operator_key=read_secret("operator_key", table.operator_key_file),
        anonymous_only=table.anonymous_only,
        arrivals_per_second=table.arrivals_per_second,
        certificate=None if table.tls is None else (table.tls.certificate, table.tls.key),
        traces_endpoint=table.traces_endpoint,
        ready=ready,
    )


def _trusted_tier(settings: Settings, listener: socket.socket, ready: Callable[[], None]) -> None:
    from pocketfl_server.trusted.process import AttestationSettings, ShardSettings, serve

    table = settings.trusted_tier
    if table is None:
        raise ValueError("the settings have no [trusted_tier]")
    attestation = table.attestation
    serve(
        listener,
        ledger_path=table.ledger,
        plan_keys=settings.plan_keys,
        token=read_secret("trusted_token", settings.trusted_token_file),
        attestation=AttestationSettings(
            kind=attestation.kind, audience=attestation.audience, command=attestation.command
        ),
        witness=table.witness,
        workers=table.workers,
        sharding=None
        if table.shard is None
        else ShardSettings(role=table.shard.role, name=table.shard.name, peers=table.shard.peers),
        certificate=None if table.tls is None else (table.tls.certificate, table.tls.key),
        metrics_address=None if table.metrics is None else (table.metrics.host, table.metrics.port),
        ready=ready,
    )


if __name__ == "__main__":
    main()
