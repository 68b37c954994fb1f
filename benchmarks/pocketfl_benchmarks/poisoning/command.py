"""The command line of ``pocketfl bench poisoning``."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import mean
from typing import Annotated, Any

import typer

from pocketfl_benchmarks.flights.options import ArchiveCopy, CacheFolder


def poisoning(
    *,
    share: Annotated[
        list[float] | None, typer.Option(min=0, max=1, help="Share of devices that lie.")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Runs of each kind.")] = 3,
    rounds: Annotated[int | None, typer.Option(min=1, help="Of each run; as the demo's.")] = None,
    cohort: Annotated[
        int | None, typer.Option(min=1, help="Reports of a round; as the demo's.")
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(help="Draw what is lost, to this SVG or PNG.", dir_okay=False)
    ] = None,
    data: ArchiveCopy = None,
    cache: CacheFolder = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """Measure what devices that lie within the clip norm cost the demo's model, simulated."""
    import torch

    from pocketfl_benchmarks.flights.cache import cache_directory
    from pocketfl_benchmarks.flights.data import ARCHIVE, read_flights
    from pocketfl_benchmarks.flights.simulation import FleetFlights, Lies, simulate
    from pocketfl_benchmarks.flights.task import COHORT, ROUNDS, Schedule
    from pocketfl_benchmarks.machine import describe_machine

    torch.set_num_threads(1)
    flights = FleetFlights.of(read_flights(ARCHIVE.locate(cache_directory(cache), local=data)))
    schedule = Schedule(
        rounds=rounds or ROUNDS,
        cohort=min(cohort or COHORT, len(flights.spans)),
        population=len(flights.spans),
    )
    multiplier = schedule.privacy().noise_multiplier

    def train(lies: Lies | None) -> list[float]:
        return [
            flights.auc(
                simulate(flights, schedule, seed=seed, noise_multiplier=multiplier, lies=lies)
            )
            for seed in range(seeds)
        ]

    honest = train(None)
    results: list[dict[str, Any]] = []
    for part in share or [0.01, 0.05, 0.2]:
        for kind in ("flipped", "opposed"):
            aucs = train(Lies(share=part, kind=kind))
            lost = [100 * (a - b) for a, b in zip(honest, aucs, strict=True)]
            results.append(
                {
                    "share": part,
                    "lie": kind,
                    "auc": mean(aucs),
                    "auc_points_lost": mean(lost),
                    "auc_points_lost_least": min(lost),
                    "auc_points_lost_most": max(lost),
                }
            )
    figures = {
        "auc_honest": mean(honest),
        "auc_honest_least": min(honest),
        "auc_honest_most": max(honest),
        "rounds": schedule.rounds,
        "cohort": schedule.cohort,
        "seeds": seeds,
        "noise_multiplier": multiplier,
        "results": results,
        "machine": describe_machine(),
    }
    if plot is not None:
        from pocketfl_benchmarks.poisoning.plot import draw_losses

        draw_losses(figures, plot)
    if as_json:
        typer.echo(json.dumps(figures, indent=2))
        return
    typer.echo(f"honest devices only: AUC {figures['auc_honest']:.4f}")
    for row in results:
        typer.echo(
            f"{row['share']:.0%} {row['lie']}: AUC {row['auc']:.4f}, "
            f"{row['auc_points_lost']:.2f} points lost "
            f"({row['auc_points_lost_least']:.2f} to {row['auc_points_lost_most']:.2f})"
        )
