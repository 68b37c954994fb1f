"""The command line of ``pocketfl bench asynchronous``."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import mean, median
from typing import Annotated, Any

import typer

from pocketfl_benchmarks.flights.options import ArchiveCopy, CacheFolder


def asynchronous(
    *,
    target: Annotated[float, typer.Option(help="AUC to reach.")] = 0.74,
    reports: Annotated[int, typer.Option(min=2, help="Of a synchronous round's release.")] = 200,
    buffer: Annotated[int, typer.Option(min=2, help="Of a smaller asynchronous release.")] = 50,
    drop_out: Annotated[
        float, typer.Option(min=0, max=0.9, help="Share of sessions that break off.")
    ] = 0.08,
    noise_multiplier: Annotated[
        float | None, typer.Option(min=0, help="Of each release; as the demo's epsilon needs it.")
    ] = None,
    learning_rate: Annotated[
        list[float] | None, typer.Option(help="Of the server's Adam; each kind takes its best.")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Runs of each kind.")] = 3,
    days: Annotated[float, typer.Option(min=0.01, help="After which a run is given up.")] = 0.25,
    plot: Annotated[
        Path | None, typer.Option(help="Draw AUC over time, to this SVG or PNG.", dir_okay=False)
    ] = None,
    data: ArchiveCopy = None,
    cache: CacheFolder = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """Compare how long synchronous and asynchronous rounds take to the same AUC, simulated."""
    import torch

    from pocketfl_benchmarks.asynchronous.comparison import Comparison
    from pocketfl_benchmarks.asynchronous.simulation import (
        BOUNDS,
        OVER_SELECTION,
        PARTICIPATIONS,
        Rounds,
        production_noise,
    )
    from pocketfl_benchmarks.flights.cache import cache_directory
    from pocketfl_benchmarks.flights.data import ARCHIVE, read_flights
    from pocketfl_benchmarks.flights.simulation import FleetFlights
    from pocketfl_benchmarks.machine import describe_machine

    torch.set_num_threads(1)
    flights = FleetFlights.of(read_flights(ARCHIVE.locate(cache_directory(cache), local=data)))
    at_once = min(round(OVER_SELECTION * reports), len(flights.spans))
    multiplier = production_noise() if noise_multiplier is None else noise_multiplier
    comparison = Comparison(
        flights, target=target, days=days, drop_out=drop_out, noise_multiplier=multiplier
    )
    rates = tuple(learning_rate or (0.03, 0.1, 0.3))
    results: list[dict[str, Any]] = []
    for name, size, is_asynchronous in (
        ("synchronous", reports, False),
        ("synchronous", buffer, False),
        ("asynchronous", reports, True),
        ("asynchronous", buffer, True),
    ):
        rounds = Rounds(
            name=name,
            reports=size,
            # A round that waits for all gains nothing from more than it needs.
            at_once=at_once if is_asynchronous else min(round(OVER_SELECTION * size), at_once),
            asynchronous=is_asynchronous,
        )
        rate = comparison.best_rate(rounds, rates)
        runs = [comparison.run(rounds, rate, seed=seed) for seed in range(seeds)]
        hours = sorted(run.seconds / 3600 for run in runs if run.reached)
        results.append(
            {
                "rounds": name,
                "reports_per_release": size,
                "learning_rate": rate,
                "reached": len(hours),
                "hours": median(hours) if hours else None,
                "hours_least": hours[0] if hours else None,
                "hours_most": hours[-1] if hours else None,
                "releases": mean(run.releases for run in runs),
                "reports": mean(run.reports for run in runs),
                "wasted": mean(run.wasted for run in runs),
                "mean_staleness": mean(mean(run.staleness or [0]) for run in runs),
                "auc_least": min(run.best for run in runs),
                "auc": mean(run.best for run in runs),
                "auc_most": max(run.best for run in runs),
                "hours_and_best_auc": [run.improvements() for run in runs],
            }
        )
    figures = {
        "target_auc": target,
        "seeds": seeds,
        "days": days,
        "devices": len(flights.spans),
        "devices_at_once": at_once,
        "drop_out": drop_out,
        "noise_multiplier": multiplier,
        "min_separation": BOUNDS.min_separation,
        "max_staleness": BOUNDS.max_staleness,
        "max_participations": PARTICIPATIONS,
        "learning_rates": list(rates),
        "results": results,
        "machine": describe_machine(),
    }
    if plot is not None:
        from pocketfl_benchmarks.asynchronous.plot import draw_curves

        draw_curves(figures, plot)
    if as_json:
        typer.echo(json.dumps(figures, indent=2))
    else:
        _show(figures)


def _show(figures: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"To AUC {figures['target_auc']:g}, {figures['devices_at_once']} at once")
    for heading in ("", "rate", "hours", "releases", "reports used", "wasted", "staleness", "AUC"):
        table.add_column(heading, justify="left" if not heading else "right")
    for row in figures["results"]:
        name = f"{row['rounds']} ({row['reports_per_release']})"
        if row["reached"] < figures["seeds"]:
            name += f", reached by {row['reached']} of {figures['seeds']}"
        hours = "-"
        if row["hours"] is not None:
            hours = f"{row['hours']:.2f} ({row['hours_least']:.2f}-{row['hours_most']:.2f})"
        table.add_row(
            name,
            f"{row['learning_rate']:g}",
            hours,
            f"{row['releases']:.0f}",
            f"{row['reports']:.0f}",
            f"{row['wasted']:.0f}",
            f"{row['mean_staleness']:.2f}",
            f"{row['auc']:.4f} ({row['auc_least']:.4f}-{row['auc_most']:.4f})",
        )
    Console().print(table)
