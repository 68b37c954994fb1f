"""``pocketfl server``: run the back end, or the trusted tier beside it."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pocketfl.decoding import encode_json
from pocketfl.errors import PocketFLError
from pocketfl_server.lifeline import end_with_stdin

if TYPE_CHECKING:
    from pocketfl_server.operator_client import OperatorClient

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


class Attestation(StrEnum):
    """Who vouches for the trusted tier."""

    development = "development"
    confidential_space = "confidential-space"
    command = "command"
    none = "none"


class NoResultError(PocketFLError):
    """The task has asked nothing yet, or nothing was released."""


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
    anonymous_only: Annotated[
        bool, typer.Option(help="Take nothing but anonymous single-use tokens at check-in.")
    ] = False,
    arrivals_per_second: Annotated[
        float,
        typer.Option(min=0.01, help="Devices that are turned away come back at this rate."),
    ] = 100.0,
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
        anonymous_only=anonymous_only,
        arrivals_per_second=arrivals_per_second,
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
    attestation: Annotated[
        Attestation,
        typer.Option(help="Who vouches for this process; 'none' leaves devices to pin its keys."),
    ] = Attestation.development,
    attestation_audience: Annotated[
        str, typer.Option(help="What tokens are issued for; apps expect the same.")
    ] = "pocketfl-devices",
    attestation_command: Annotated[
        str | None,
        typer.Option(help="For 'command': the program that prints a token for its arguments."),
    ] = None,
    witness: Annotated[
        Path | None,
        typer.Option(help="Append-only file that remembers how far the ledger had come."),
    ] = None,
    workers: Annotated[
        int, typer.Option(min=1, help="Processes that open and sum reports; 1 for this one alone.")
    ] = 1,
    url_file: UrlFile = None,
    until_stdin_closes: UntilStdinCloses = False,
) -> None:
    """Serve the trusted tier: the one process in which a device's report is ever in the clear.

    With --attestation development, which is the default, the process vouches for itself: its operator
    can read every report. The public key for devices lies beside the ledger (LEDGER-attestation.pub).
    """
    from pocketfl_server.trusted.process import AttestationSettings, serve

    if (attestation is Attestation.command) != (attestation_command is not None):
        raise typer.BadParameter("--attestation-command goes with --attestation command")
    settings = AttestationSettings(
        kind=attestation.value,
        audience=attestation_audience,
        command=tuple(shlex.split(attestation_command or "")),
    )
    if attestation is Attestation.development:
        typer.echo(
            "development attestation: this process vouches for itself, and its operator can read "
            "every report"
        )
    if until_stdin_closes:
        end_with_stdin()
    serve(
        ledger,
        plan_key,
        host=host,
        port=port,
        token=_secret("trusted-token", trusted_token_file),
        attestation=settings,
        witness=witness,
        workers=workers,
        announce=_announcer("trusted tier", url_file),
    )


Task = Annotated[str | None, typer.Argument(help="Name of the task.")]
EveryTask = Annotated[bool, typer.Option("--all", help="Every task of this back end.")]
BackEndUrl = Annotated[str, typer.Option("--url", help="Where the back end is.")]
OperatorKeyFile = Annotated[
    Path | None, typer.Option(help="Holds the operator key; or POCKETFL_OPERATOR_KEY.")
]


@app.command()
def pause(
    task: Task = None,
    *,
    every_task: EveryTask = False,
    reason: Annotated[str, typer.Option(help="A few words that devices show their users.")],
    min_seconds: Annotated[
        float, typer.Option(help="Devices look again no earlier than after this.")
    ] = 1800.0,
    max_seconds: Annotated[float, typer.Option(help="And no later than after this.")] = 5400.0,
    url: BackEndUrl = "http://127.0.0.1:8000",
    operator_key_file: OperatorKeyFile = None,
) -> None:
    """Keep devices away from a task, or from all, until it is resumed.

    Devices that ask from now on begin no session; reports under way are still taken. Abort the task's
    round as well if they shall not be.
    """
    which = _which(task, every_task=every_task)
    with _operator(url, operator_key_file) as operator:
        operator.pause(which, reason=reason, min_seconds=min_seconds, max_seconds=max_seconds)
    typer.echo(f"paused {which or 'every task'}")


@app.command()
def resume(
    task: Task = None,
    *,
    every_task: EveryTask = False,
    url: BackEndUrl = "http://127.0.0.1:8000",
    operator_key_file: OperatorKeyFile = None,
) -> None:
    """End a pause: of a task its own, with --all that of all tasks; prints what is still paused."""
    which = _which(task, every_task=every_task)
    with _operator(url, operator_key_file) as operator:
        still = operator.resume(which)
    typer.echo(f"resumed {which or 'every task'}")
    for record in still:
        typer.echo(f"still paused: {record.task or 'every task'} ({record.reason})")


@app.command()
def results(
    task: Annotated[str, typer.Argument(help="Name of a task that asks queries.")],
    *,
    round_number: Annotated[
        int | None, typer.Option("--round", help="Of which round; the last one by default.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print every value as JSON.")] = False,
    url: BackEndUrl = "http://127.0.0.1:8000",
    operator_key_file: OperatorKeyFile = None,
) -> None:
    """Print what a fleet answered: the released sums of a task that asks queries."""
    from pocketfl_server.analytics.printing import print_result

    with _operator(url, operator_key_file) as operator:
        if round_number is None:
            known = operator.results(task)
            if not known:
                raise NoResultError(f"task {task!r} has no result yet: close a round of it first")
            round_number = known[-1].round
        result = operator.result(task, round_number)
    if as_json:
        typer.echo(encode_json(result).decode())
    else:
        print_result(result)


def _which(task: str | None, *, every_task: bool) -> str | None:
    if (task is None) is not every_task:
        raise typer.BadParameter("name a task, or say --all")
    return task


def _operator(url: str, key_file: Path | None) -> OperatorClient:
    from pocketfl_server.operator_client import OperatorClient

    return OperatorClient(url, _secret("operator-key", key_file))


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
