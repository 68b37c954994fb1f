"""``pocketfl runtimes``: which runtimes this machine has, and ExecuTorch without torch."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Annotated

import typer

from pocketfl.plan.manifest import RUNTIME_NAMES
from pocketfl.runtimes.executorch_build import build_library, find_library

app = typer.Typer(help="The runtimes that train on this machine.", no_args_is_help=True)


@app.command()
def show() -> None:
    """Print each runtime, its version, and what it is reached through."""
    for name in RUNTIME_NAMES:
        try:
            installed = version(name)
        except PackageNotFoundError:
            typer.echo(f"{name}: not installed")
            continue
        typer.echo(f"{name} {installed}{_executorch() if name == 'executorch' else ''}")


@app.command("build-executorch")
def build_executorch(
    compiler: Annotated[str, typer.Option(help="A compiler of C++20.")] = "g++",
) -> None:
    """Compile what joins ExecuTorch's libraries to Python without torch, into this user's cache."""
    typer.echo(build_library(compiler=compiler))


def _executorch() -> str:
    library = find_library()
    if library is not None:
        return f", without torch, through {library}"
    if find_spec("torch") is None:
        return ", not usable yet: pocketfl runtimes build-executorch"
    return ", through torch; without it: pocketfl runtimes build-executorch"
