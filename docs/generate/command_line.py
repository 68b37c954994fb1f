"""The page of the command line, from the commands themselves."""

from __future__ import annotations

from typing import Final

import typer
from typer.cli import get_docs_for_click

from pocketfl.commands.root import build_app

_HEAD: Final = """\
# Command line

`pocketfl` comes with `pip install 'pocketfl[cli]'`; the commands of exporting, serving, the demo and the benchmarks with the
extras `export`, `server` and `demo`. Every command prints its own help with `--help`.
"""


def page() -> str:
    """Return the page as markdown."""
    root = typer.main.get_command(build_app())
    context = typer.Context(root, info_name="pocketfl")
    written = get_docs_for_click(obj=root, ctx=context, name="pocketfl")
    return _HEAD + written.partition("\n")[2]
