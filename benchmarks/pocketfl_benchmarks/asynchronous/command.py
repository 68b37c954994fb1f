"""The command line of ``pocketfl bench asynchronous``."""

from __future__ import annotations

import json
from statistics import mean, median
from typing import Annotated, Any

import typer

from pocketfl_benchmarks.flights.options import ArchiveCopy, CacheFolder


def asynchronous(
    *,
    target: Annotated[float, typer.Option(help="AUC to reach.")] = 0.75,
    reports: Annotated[int, typer.Option(min=2, help="Of a synchronous round's release.")] = 200,
    buffer: Annotated[int, typer.Option(min=2, help="Of a smaller asynchronous release.")] = 50,
    drop_out: Annotated[
        float, typer.Option(min=0, max=0.9, help="Share of sessions that break off.")
    ] = 0.08,
    noise_multiplier: Annotated[float, typer.Option(min=0, help="Of each release.")] = 0.0,
    seeds: Annotated[int, typer.Option(min=1, help="Runs of each kind.")] = 3,
    days: Annotated[float, typer.Option(min=0.01, help="After which a run is given up.")] = 0.5,
    data: ArchiveCopy = None,
    cache: CacheFolder = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """Compare how long synchronous and asynchronous rounds take to the same AUC, simulated."""
    import numpy as np
    import torch

    from pocketfl_benchmarks.asynchronous.fleet import Phones
    from pocketfl_benchmarks.asynchronous.simulation import OVER_SELECTION, Rounds, Training
    from pocketfl_benchmarks.flights.cache import cache_directory
    from pocketfl_benchmarks.flights.data import ARCHIVE, read_flights
    from pocketfl_benchmarks.flights.simulation import FleetFlights
    from pocketfl_benchmarks.machine import describe_machine

    torch.set_num_threads(1)
    flights = FleetFlights.of(read_flights(ARCHIVE.locate(cache_directory(cache), local=data)))
    at_once = min(round(OVER_SELECTION * reports), len(flights.spans))
    kinds = (
        Rounds(name="synchronous", reports=reports, at_once=at_once, asynchronous=False),
        Rounds(name="asynchronous", reports=reports, at_once=at_once, asynchronous=True),
        Rounds(
            name="asynchronous, smaller releases",
            reports=buffer,
            at_once=at_once,
            asynchronous=True,
        ),
    )
    results: list[dict[str, Any]] = []
    for kind in kinds:
        runs = []
        for seed in range(seeds):
            phones = Phones.draw(
                len(flights.spans), drop_out=drop_out, generator=np.random.default_rng([seed, 0])
            )
            training = Training(flights, phones, kind, noise_multiplier=noise_multiplier, seed=seed)
            runs.append(training.until(target, days=days))
        results.append(
            {
                "rounds": kind.name,
                "reports_per_release": kind.reports,
                "reached": sum(run.reached for run in runs),
                "hours": median(run.seconds for run in runs) / 3600,
                "releases": mean(run.releases for run in runs),
                "reports": mean(run.reports for run in runs),
                "wasted": mean(run.wasted for run in runs),
                "mean_staleness": mean(mean(run.staleness or [0]) for run in runs),
                "auc": mean(run.auc for run in runs),
            }
        )
    figures = {
        "target_auc": target,
        "seeds": seeds,
        "devices": len(flights.spans),
        "devices_at_once": at_once,
        "drop_out": drop_out,
        "noise_multiplier": noise_multiplier,
        "results": results,
        "machine": describe_machine(),
    }
    if as_json:
        typer.echo(json.dumps(figures, indent=2))
    else:
        _show(figures)


def _show(figures: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"To AUC {figures['target_auc']:g}, {figures['devices_at_once']} at once")
    for heading in ("", "hours", "releases", "reports used", "wasted", "staleness", "AUC"):
        table.add_column(heading, justify="left" if not heading else "right")
    for row in figures["results"]:
        name = f"{row['rounds']} ({row['reports_per_release']})"
        if row["reached"] < figures["seeds"]:
            name += f", reached by {row['reached']} of {figures['seeds']}"
        table.add_row(
            name,
            f"{row['hours']:.2f}",
            f"{row['releases']:.0f}",
            f"{row['reports']:.0f}",
            f"{row['wasted']:.0f}",
            f"{row['mean_staleness']:.2f}",
            f"{row['auc']:.4f}",
        )
    Console().print(table)
