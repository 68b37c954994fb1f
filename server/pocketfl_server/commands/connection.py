"""How commands reach a back end: options, the variables behind them, and the client."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pocketfl.errors import PocketFLError

if TYPE_CHECKING:
    from pocketfl_server.operator_client import OperatorClient

Url = Annotated[str, typer.Option("--url", envvar="POCKETFL_URL", help="Where the back end is.")]
KeyFile = Annotated[
    Path | None,
    typer.Option(
        "--operator-key-file",
        envvar="POCKETFL_OPERATOR_KEY_FILE",
        help="Holds the operator key or token; or POCKETFL_OPERATOR_KEY.",
    ),
]
CaFile = Annotated[
    Path | None,
    typer.Option(
        "--ca-file",
        envvar="POCKETFL_CA_FILE",
        help="Authority (PEM) that signed the back end's certificate, if the system does not know it.",
    ),
]
DEFAULT_URL = "http://127.0.0.1:8000"


class MissingSecretError(PocketFLError):
    """The operator key was given neither by file nor by environment."""


class WrongAddressError(PocketFLError):
    """The address is none, or would have the operator key travel in the clear."""


def connect(url: str, key_file: Path | None, ca_file: Path | None = None) -> OperatorClient:
    """Return a client for the operator's routes.

    Raises
    ------
    MissingSecretError
        If there is no key. It never comes from the command line, which every user can read.
    WrongAddressError
        If the address is none that the key may go to.
    """
    from pocketfl_server.operator_client import OperatorClient

    try:
        key = (
            key_file.read_text().strip()
            if key_file
            else os.environ.get("POCKETFL_OPERATOR_KEY", "")
        )
    except OSError as error:
        raise MissingSecretError(f"cannot read {key_file}: {error.strerror}") from None
    if not key:
        raise MissingSecretError("give --operator-key-file FILE, or set POCKETFL_OPERATOR_KEY")
    try:
        return OperatorClient(url, key, ca_file=ca_file)
    except ValueError as error:
        raise WrongAddressError(f"--url: {error}") from None
