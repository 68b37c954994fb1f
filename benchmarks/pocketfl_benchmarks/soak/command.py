"""The command line of ``python -m benchmarks.soak``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer


def run_soak(
    *,
    minutes: Annotated[float, typer.Option(min=0.1, max=24 * 60)] = 30.0,
    rate: Annotated[float, typer.Option(min=0.2, max=1000, help="Devices a second.")] = 5.0,
    round_seconds: Annotated[float, typer.Option(min=20.0, max=3600)] = 40.0,
    parameters: Annotated[int, typer.Option(min=1, max=1_000_000, help="Of the model.")] = 2177,
    plot: Annotated[Path | None, typer.Option(help="Draw the memory here (SVG or PNG).")] = None,
    out: Annotated[Path | None, typer.Option(help="Write the figures here as JSON.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """Keep a deployment under a steady load; exit status 1 after any error.

    An error is a request without success, a device without a place, a round without a version, or a
    report with a receipt that is in no sum.
    """
    from pocketfl_benchmarks.machine import describe_machine
    from pocketfl_benchmarks.soak.plot import plot as draw
    from pocketfl_benchmarks.soak.steady import SoakSettings, soak

    settings = SoakSettings(
        minutes=minutes, rate=rate, round_seconds=round_seconds, parameters=parameters
    )
    figures = {**soak(settings), "machine": describe_machine()}
    if out is not None:
        out.write_text(json.dumps(figures, indent=1) + "\n")
    if plot is not None:
        draw(figures, plot)
    if as_json:
        typer.echo(json.dumps(figures, indent=2))
    else:
        slopes = ", ".join(
            f"{name} {memory['slope_mb_per_hour']:+.2f} MB an hour"
            for name, memory in figures["memory"].items()
        )
        typer.echo(
            f"{figures['minutes']:.1f} minutes, {figures['requests']} requests, "
            f"{figures['reports']} reports in rounds {figures['rounds']}: {figures['errors']} errors; "
            f"{slopes}"
        )
    if figures["errors"]:
        raise typer.Exit(1)


def run() -> None:
    """Run the command line."""
    typer.run(run_soak)
