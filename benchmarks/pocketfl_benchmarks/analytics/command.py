"""``pocketfl bench analytics``: errors of private statistics on the flights fleet."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer


def analytics(
    *,
    seeds: Annotated[int, typer.Option(min=1, help="Draws of devices and noise.")] = 20,
    data: Annotated[Path | None, typer.Option(help="A copy of the flights' archive.")] = None,
    cache: Annotated[Path | None, typer.Option(help="Where the archive is kept.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw the metrics (.svg, .png).")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """Ask a fleet of aircraft privately, and compare with what is exactly true of it."""
    from rich.console import Console
    from rich.status import Status

    from pocketfl_benchmarks.analytics.figures import measure
    from pocketfl_benchmarks.flights.cache import cache_directory
    from pocketfl_benchmarks.flights.data import ARCHIVE, read_flights

    with Status("Asking the fleet", console=Console(stderr=True)):
        table = read_flights(ARCHIVE.locate(cache_directory(cache), local=data))
        figures = measure(table, seeds=seeds)
    if plot is not None:
        from pocketfl_benchmarks.analytics.plot import draw_metrics

        draw_metrics(figures, plot)
    if as_json:
        typer.echo(json.dumps(figures, indent=2))
    else:
        _show(figures)


def _show(figures: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    details = figures["details"]
    table = Table(
        title=f"Errors at epsilon {figures['epsilon']:g}, delta {figures['delta']:g}: median of "
        f"{figures['seeds']}"
    )
    for heading in ("statistic", "devices", "error"):
        table.add_column(heading, justify="left" if heading == "statistic" else "right")
    devices, held_out = f"{figures['devices']:,}", details["metrics"]
    rows = [
        ("quantiles, one feature", devices, f"{figures['quantile_cdf_error_one']:.2%}"),
        ("quantiles, all six features", devices, f"{figures['quantile_cdf_error_all']:.2%}"),
        ("share of a class", devices, f"{figures['class_count_error']:.2%}"),
    ]
    for entry in held_out:
        rows += [
            (name.replace("_", " "), f"{entry['devices']:,}", f"{error:.4f}")
            for name, error in entry["error"].items()
        ]
    for row in rows:
        table.add_row(*row)
    Console().print(table)
    bounds = Table(title="Area under the ROC curve, by the bound of one device's answer")
    for heading in ("bound", "devices", "bias", "error"):
        bounds.add_column(heading, justify="right")
    for entry in details["bounds"]:
        error = "hidden by noise" if entry["error"] is None else f"{entry['error']:.4f}"
        bounds.add_row(
            f"{entry['bound']:g}", f"{entry['devices']:,}", f"{entry['bias']:+.4f}", error
        )
    Console().print(bounds)
