"""The command line of ``python -m benchmarks.scale``."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated, Any, Final

import typer

FIGURES: Final = Path("benchmarks/figures")
"""Committed figures, from the repository's root."""


def scale(
    *,
    devices: Annotated[int, typer.Option(min=10, max=20_000, help="In each round.")] = 1000,
    parameters: Annotated[int, typer.Option(min=1, max=1_000_000, help="Of the model.")] = 2177,
    downloads: Annotated[int, typer.Option(min=10, max=100_000, help="Of each kind.")] = 2000,
    registered: Annotated[
        int, typer.Option(min=0, max=5_000_000, help="Devices enrolled besides, for their memory.")
    ] = 200_000,
    gateways: Annotated[
        int, typer.Option(min=1, max=16, help="More than one need POCKETFL_DATABASE_URL.")
    ] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
    page: Annotated[
        Path | None,
        typer.Option(help="Measure nothing; write the capacity page from the committed figures."),
    ] = None,
) -> None:
    """Measure how many devices one gateway takes, how fast it answers, and how fast a round ends.

    An empty PostgreSQL database is named by POCKETFL_DATABASE_URL; without it a SQLite file is made.
    """
    if page is not None:
        page.write_text(capacity_page())
        return
    from pocketfl_benchmarks.machine import describe_machine
    from pocketfl_benchmarks.scale.measurement import ScaleSettings, measure

    settings = ScaleSettings(
        devices=devices,
        parameters=parameters,
        downloads=downloads,
        registered=registered,
        gateways=gateways,
        database_url=os.environ.get("POCKETFL_DATABASE_URL"),
    )
    figures = {**measure(settings), "machine": describe_machine()}
    if as_json:
        typer.echo(json.dumps(figures, indent=2))
    else:
        _show(figures)


def capacity_page(figures: Path = FIGURES) -> str:
    """Return the capacity page of the figures in a folder: ``scale.json`` and ``soak.json``."""
    from pocketfl_benchmarks.scale.page import page

    soak = figures / "soak.json"
    return page(
        json.loads((figures / "scale.json").read_text()),
        json.loads(soak.read_text()) if soak.exists() else None,
    )


def _show(figures: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{figures['gateways']} gateway(s) on {figures['database']}")
    for title in ("", "per second", "per core and second", "median ms", "p99 ms"):
        table.add_column(title, justify="right" if title else "left")
    for key in ("enrolment", "check_in", "report", "plan_download", "parameters_download"):
        row = figures[key]
        table.add_row(
            key.replace("_", " "),
            f"{row['per_second']:,.0f}",
            f"{row['per_core_second']:,.0f}",
            f"{row['p50_ms']:.1f}",
            f"{row['p99_ms']:.1f}",
        )
    console = Console()
    console.print(table)
    console.print(
        f"at half of that rate, p99 {figures['p99_ms']:.1f} ms; from a round's close to the new "
        f"version {figures['round_server_seconds']:.2f} s; idle {figures['idle_rss_mb']:.0f} MB"
    )


def run() -> None:
    """Run the command line."""
    typer.run(scale)
