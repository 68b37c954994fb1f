"""The command tree: collects the sub-commands that the installed packages contribute.

A package adds a command by naming a Typer app, or a function, under the entry-point group
``pocketfl.commands``; so the SDK's command line grows without the SDK importing anybody.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points

import typer

from pocketfl import __version__

GROUP = "pocketfl.commands"
# What to install when a command's own libraries are missing.
_EXTRA_OF = {
    "export": "export",
    "access": "server",
    "serve": "server",
    "task": "server",
    "rollout": "server",
    "simulate": "simulate",
    "tune": "simulate",
    "demo": "demo",
    "bench": "demo",
}


def build_app(only: str | None = None) -> typer.Typer:
    """Return the command line as one Typer app.

    Parameters
    ----------
    only : str, optional
        Load this command alone, if there is one of this name: a server that runs for weeks shall not
        hold the libraries of all the others.
    """
    app = typer.Typer(
        name="pocketfl",
        help="Train compact models on the devices that hold the data.",
        no_args_is_help=True,
        pretty_exceptions_show_locals=False,
    )

    @app.callback()
    def root(
        version: bool = typer.Option(
            False,
            "--version",
            help="Print the version and stop.",
            callback=_show_version,
            is_eager=True,
        ),
    ) -> None:
        pass

    entries = sorted(entry_points(group=GROUP), key=lambda found: found.name)
    wanted = [entry for entry in entries if entry.name == only]
    for entry in wanted or entries:
        _mount(app, entry)
    return app


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"pocketfl {__version__}")
        raise typer.Exit


def _mount(app: typer.Typer, entry: EntryPoint) -> None:
    try:
        command = entry.load()
    except ImportError as error:
        app.command(entry.name, help="(not installed)")(_missing(entry.name, str(error)))
        return
    if isinstance(command, typer.Typer):
        app.add_typer(command, name=entry.name)
    else:
        app.command(entry.name)(command)


def _missing(name: str, reason: str) -> Callable[[], None]:
    def command() -> None:
        extra = _EXTRA_OF.get(name, "cli")
        typer.echo(
            f"'pocketfl {name}' needs more than is installed ({reason}): "
            f"pip install 'pocketfl[{extra}]'",
            err=True,
        )
        raise typer.Exit(2)

    return command
