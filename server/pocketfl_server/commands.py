"""``pocketfl server``: run the back end, or the trusted tier beside it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from pocketfl.errors import PocketFLError
from pocketfl_server.lifeline import end_with_stdin

app = typer.Typer(
    name="server", help="Run the back end and the trusted tier.", no_args_is_help=True
)

PlanKeys = Annotated[
    list[str],
    typer.Option(
        "--plan-key",
        help="Public key of a modeller whose plans are served, 64 hex digits; may be repeated.",
    ),
]
Host = Annotated[str, typer.Option(help="Address to listen on.")]
UrlFile = Annotated[
    Path | None,
    typer.Option(help="Write the URL here once connections are accepted (with --port 0)."),
]
UntilStdinCloses = Annotated[
    bool, typer.Option(help="Stop once standard input is closed: end with the starting process.")
]


class MissingSecretError(PocketFLError):
    """A secret was given neither by file nor by environment."""


@app.command("run")
def run_back_end(
    *,
    database: Annotated[
        str,
        typer.Option(
            envvar="POCKETFL_DATABASE_URL",
            help="sqlite:///FILE or postgresql+psycopg://...; one with a password belongs into the "
            "environment.",
        ),
    ] = "sqlite:///pocketfl.db",
    trusted_url: Annotated[str, typer.Option(help="Where the trusted tier listens.")] = (
        "http://127.0.0.1:8001"
    ),
    plan_key: PlanKeys = [],  # noqa: B006 - Typer copies it
    host: Host = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on; 0 for any free one.")] = 8000,
    operator_key_file: Annotated[
        Path | None, typer.Option(help="Holds the operator key; or POCKETFL_OPERATOR_KEY.")
    ] = None,
    enrolment_key_file: Annotated[
        Path | None, typer.Option(help="Holds the enrolment key; or POCKETFL_ENROLMENT_KEY.")
    ] = None,
    trusted_token_file: Annotated[
        Path | None,
        typer.Option(help="Holds the trusted tier's token; or POCKETFL_TRUSTED_TOKEN."),
    ] = None,
    url_file: UrlFile = None,
    until_stdin_closes: UntilStdinCloses = False,
) -> None:
    """Serve devices and the operator.

    Secrets come from files or from the environment, never from the command line, which every user of
    the machine can read.
    """
    from pocketfl_server.serving import serve

    if until_stdin_closes:
        end_with_stdin()
    serve(
        database_url=database,
        trusted_url=trusted_url,
        trusted_token=_secret("trusted-token", trusted_token_file),
        plan_keys=plan_key,
        enrolment_key=_secret("enrolment-key", enrolment_key_file),
        operator_key=_secret("operator-key", operator_key_file),
        host=host,
        port=port,
        announce=_announcer("back end", url_file),
    )


@app.command("trusted")
def run_trusted_tier(
    *,
    ledger: Annotated[Path, typer.Option(help="The durable ledger with the private keys.")],
    plan_key: PlanKeys = [],  # noqa: B006 - Typer copies it
    host: Host = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on; 0 for any free one.")] = 8001,
    trusted_token_file: Annotated[
        Path | None,
        typer.Option(help="Holds the token of the back end; or POCKETFL_TRUSTED_TOKEN."),
    ] = None,
    url_file: UrlFile = None,
    until_stdin_closes: UntilStdinCloses = False,
) -> None:
    """Serve the trusted tier: the one process in which a device's report is ever in the clear."""
    from pocketfl_server.trusted.process import serve

    if until_stdin_closes:
        end_with_stdin()
    serve(
        ledger,
        plan_key,
        host=host,
        port=port,
        token=_secret("trusted-token", trusted_token_file),
        announce=_announcer("trusted tier", url_file),
    )


def _secret(name: str, path: Path | None) -> str:
    variable = "POCKETFL_" + name.upper().replace("-", "_")
    try:
        value = path.read_text().strip() if path else os.environ.get(variable, "")
    except OSError as error:
        raise MissingSecretError(f"cannot read {path}: {error.strerror}") from None
    if not value:
        raise MissingSecretError(f"give --{name}-file FILE, or set {variable}")
    return value


def _announcer(name: str, url_file: Path | None) -> Callable[[str], None]:
    def announce(url: str) -> None:
        typer.echo(f"{name} on {url}")
        if url_file is not None:
            temporary = url_file.with_name(url_file.name + ".part")
            temporary.write_text(url)
            temporary.replace(url_file)

    return announce
