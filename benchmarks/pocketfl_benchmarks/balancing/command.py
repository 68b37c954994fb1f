"""``pocketfl bench balancing``: the ablation of label balancing, under differential privacy."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer


def balancing(
    *,
    seeds: Annotated[int, typer.Option(min=1, help="Trainings of each arm.")] = 3,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds of each training.")] = 22,
    data: Annotated[Path | None, typer.Option(help="A copy of the flights' archive.")] = None,
    cache: Annotated[Path | None, typer.Option(help="Where the archive is kept.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw the ablation (.svg, .png).")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """Train private models of two rare labels, with and without balancing, in one process."""
    from rich.console import Console
    from rich.progress import Progress

    from pocketfl_benchmarks.balancing.ablation import ARMS, LABELS, run_ablation
    from pocketfl_benchmarks.flights.cache import cache_directory
    from pocketfl_benchmarks.flights.data import ARCHIVE, read_flights

    table = read_flights(ARCHIVE.locate(cache_directory(cache), local=data))
    with Progress(console=Console(stderr=True)) as bar:
        task = bar.add_task("Training", total=len(ARMS) * len(LABELS) * seeds)
        results = run_ablation(
            table, seeds=seeds, rounds=rounds, progress=lambda: bar.advance(task)
        )
    figures: dict[str, Any] = {
        "seeds": seeds,
        "rounds": rounds,
        "arms": [asdict(result) for result in results],
    }
    if plot is not None:
        from pocketfl_benchmarks.balancing.plot import draw_ablation

        draw_ablation(figures, plot)
    if as_json:
        typer.echo(json.dumps(figures, indent=2))
    else:
        _show(figures)


def _show(figures: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"Held-out aircraft, mean of {figures['seeds']} private trainings")
    for heading in ("late by", "balancing", "flights used", "AUC", "average precision"):
        table.add_column(heading)
    for heading in ("entropy", "uncorrected", "calibration error", "uncorrected"):
        table.add_column(heading, justify="right")
    for arm in figures["arms"]:
        table.add_row(
            f"{arm['label_minutes']:g} min",
            arm["arm"],
            f"{arm['examples']:.0%}",
            f"{arm['auc']:.4f} ± {arm['auc_deviation']:.4f}",
            f"{arm['average_precision']:.4f} ± {arm['average_precision_deviation']:.4f}",
            f"{arm['normalised_entropy']:.3f}",
            f"{arm['uncorrected_entropy']:.3f}",
            f"{arm['calibration_error']:.3f}",
            f"{arm['uncorrected_calibration_error']:.3f}",
        )
    Console().print(table)
