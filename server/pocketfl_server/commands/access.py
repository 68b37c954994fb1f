"""``pocketfl access``: who may use a back end's operator routes, and what they did."""

from __future__ import annotations

from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from pocketfl.decoding import encode_json
from pocketfl.errors import PocketFLError
from pocketfl_server.commands.connection import DEFAULT_URL, CaFile, KeyFile, Url, connect

app = typer.Typer(
    name="access", help="Who may operate a back end, and what they did.", no_args_is_help=True
)

Name = Annotated[str, typer.Argument(help="Whose token.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print everything as JSON.")]


class RoleName(StrEnum):
    """What a token may do."""

    viewer = "viewer"
    operator = "operator"
    modeller = "modeller"
    administrator = "administrator"


class TokenFileError(PocketFLError):
    """The file for a token exists or cannot be written."""


@app.command()
def create(
    name: Name,
    *,
    role: Annotated[
        RoleName,
        typer.Option(
            help="viewer looks; operator runs rounds and pauses too; modeller looks, uploads plans and "
            "makes tasks; administrator does everything."
        ),
    ],
    token_file: Annotated[
        Path, typer.Option(help="Where the token goes, readable by its owner only.")
    ],
    url: Url = DEFAULT_URL,
    operator_key_file: KeyFile = None,
    ca_file: CaFile = None,
) -> None:
    """Give somebody a token; the back end keeps its hash alone."""
    try:
        token_file.touch(mode=0o600, exist_ok=False)
    except FileExistsError:
        raise TokenFileError(f"{token_file} exists; name another file") from None
    except OSError as error:
        raise TokenFileError(f"cannot write {token_file}: {error.strerror}") from None
    try:
        with connect(url, operator_key_file, ca_file) as operator:
            token_file.write_text(operator.create_token(name, role.value).token)
    except BaseException:
        token_file.unlink()
        raise
    typer.echo(f"{name} is {role.value}; the token is in {token_file}")


@app.command("list")
def list_tokens(
    *, url: Url = DEFAULT_URL, operator_key_file: KeyFile = None, ca_file: CaFile = None
) -> None:
    """List who has a token."""
    with connect(url, operator_key_file, ca_file) as operator:
        for token in operator.tokens():
            typer.echo(f"{token.name}  {token.role}  since {_when(token.created_at)}")


@app.command()
def revoke(
    name: Name,
    *,
    url: Url = DEFAULT_URL,
    operator_key_file: KeyFile = None,
    ca_file: CaFile = None,
) -> None:
    """Make somebody's token worthless at once."""
    with connect(url, operator_key_file, ca_file) as operator:
        operator.revoke_token(name)
    typer.echo(f"revoked the token of {name}")


@app.command()
def log(
    *,
    after: Annotated[int, typer.Option(help="Only entries above this number.")] = 0,
    task: Annotated[str | None, typer.Option(help="Only entries about this task.")] = None,
    as_json: AsJson = False,
    url: Url = DEFAULT_URL,
    operator_key_file: KeyFile = None,
    ca_file: CaFile = None,
) -> None:
    """Print what operators did and what was released, with each release's privacy event."""
    with connect(url, operator_key_file, ca_file) as operator:
        for entry in operator.audit(after=after):
            if task is not None and entry.task != task:
                continue
            if as_json:
                typer.echo(encode_json(entry).decode())
                continue
            outcome = "not ended" if entry.status is None else entry.status
            about = f" {entry.task}" if entry.task else ""
            typer.echo(
                f"{entry.sequence}  {_when(entry.at)}  {entry.actor}  {entry.action}{about}  "
                f"{outcome}  {entry.details}"
            )


def _when(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")
