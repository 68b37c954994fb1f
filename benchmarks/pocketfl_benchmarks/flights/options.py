"""Options that every command on the flights data has."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

ArchiveCopy = Annotated[
    Path | None, typer.Option(help="Local copy of the data archive, for lack of a network.")
]
CacheFolder = Annotated[Path | None, typer.Option(help="Cache folder.", envvar="POCKETFL_CACHE")]
