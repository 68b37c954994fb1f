"""``pocketfl serve FILE``: the back end and the trusted tier that a file of settings describes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def serve(
    file: Annotated[Path, typer.Argument(help="Settings (TOML).")] = Path("pocketfl.toml"),
    *,
    check: Annotated[
        bool, typer.Option("--check", help="Read the settings and the secrets, and stop.")
    ] = False,
) -> None:
    """Run the processes that a file describes, until SIGTERM or Ctrl-C.

    A table [trusted_tier] starts the trusted tier, a table [back_end] the back end; both may be on
    machines of their own. Secrets come from files or from the environment. If a process ends, all are
    stopped and the exit status is 1: whoever starts this command decides whether to start it again.
    """
    from pocketfl_server.deployment.settings import check_secrets, read_settings
    from pocketfl_server.deployment.supervisor import Supervisor

    settings = read_settings(file)
    check_secrets(settings)
    if check:
        typer.echo(f"{file} can be served")
        return
    trusted = settings.trusted_tier
    if trusted is not None and trusted.attestation.kind == "development":
        typer.echo(
            "development attestation: the trusted tier vouches for itself, and its operator can read "
            "every report"
        )
    Supervisor(file, settings).run()
