"""The command line of ``pocketfl bench aggregate``."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated, Any

import typer


def aggregate(
    *,
    parameters: Annotated[int, typer.Option(min=1, max=50_000_000, help="Of the model.")] = 50_000,
    reports: Annotated[int, typer.Option(min=1, help="In the round.")] = 400,
    workers: Annotated[
        int, typer.Option(min=1, help="Also time so many worker processes, by the clock.")
    ] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """Measure how many reports the trusted tier reads, opens, checks and sums in a second."""
    from pocketfl.plan import EncodingSpec
    from pocketfl_benchmarks.aggregate.measurement import measure_rates
    from pocketfl_benchmarks.machine import describe_machine

    plain, several = measure_rates(parameters, reports, None, workers=workers)
    encoded, _ = measure_rates(parameters, reports, EncodingSpec(bits=4))
    figures: dict[str, Any] = {
        **asdict(plain),
        "four_bits": asdict(encoded),
        **({"several": several} if several else {}),
        "machine": describe_machine(),
    }
    if as_json:
        typer.echo(json.dumps(figures, indent=2))
    else:
        _show(figures)


def _show(figures: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"Reports of {figures['parameters']:,} parameters")
    for title in ("", "16 bits", "4 bits"):
        table.add_column(title, justify="right" if title else "left")
    for name, key, form in (
        ("bytes of a report", "report_bytes", "{:,}"),
        ("summed per second and core", "reports_per_second_per_core", "{:,.0f}"),
        ("decrypt + norm + sum alone", "bound_per_second", "{:,.0f}"),
        ("part of that bound", "ratio_to_bound", "{:.0%}"),
        ("microseconds to read one", "microseconds_to_read", "{:.0f}"),
        ("submitted per second", "submissions_per_second", "{:,.0f}"),
    ):
        table.add_row(name, form.format(figures[key]), form.format(figures["four_bits"][key]))
    console = Console()
    console.print(table)
    several = figures.get("several")
    if several:
        same = "the same sum" if several["same_sum"] else "ANOTHER SUM"
        rate = several["reports_per_second"]
        console.print(f"{several['workers']} workers: {rate:,.0f} reports per second, {same}")
