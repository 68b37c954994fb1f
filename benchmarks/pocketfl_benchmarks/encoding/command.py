"""The command line of ``pocketfl bench encoding``."""

from __future__ import annotations

import json
from dataclasses import asdict
from enum import StrEnum
from typing import Annotated, Any, Final

import typer

from pocketfl.plan import EncodingSpec
from pocketfl_benchmarks.flights.options import ArchiveCopy, CacheFolder

PARAMETERS: Final = 50_000


class BitsChoice(StrEnum):
    """Bits of a coordinate."""

    FOUR = "4"
    EIGHT = "8"

    @property
    def spec(self) -> EncodingSpec:
        """The encoding that has them."""
        return EncodingSpec(bits=4 if self is BitsChoice.FOUR else 8)


def encoding(
    *,
    bits: Annotated[BitsChoice, typer.Option(help="Bits of a coordinate.")] = BitsChoice.FOUR,
    parameters: Annotated[
        int, typer.Option(min=1, max=50_000_000, help="Of the model whose report is measured.")
    ] = PARAMETERS,
    seeds: Annotated[int, typer.Option(min=1, help="Pairs of training runs.")] = 5,
    rounds: Annotated[int | None, typer.Option(min=1, help="Of each run; as the demo's.")] = None,
    cohort: Annotated[
        int | None, typer.Option(min=1, help="Reports of a round; as the demo's.")
    ] = None,
    data: ArchiveCopy = None,
    cache: CacheFolder = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """Measure compact updates: bytes, time on the device, and AUC of the demo's model, simulated."""
    from rich.console import Console
    from rich.progress import Progress

    from pocketfl_benchmarks.encoding.measurement import measure_accuracy, measure_report
    from pocketfl_benchmarks.flights.cache import cache_directory
    from pocketfl_benchmarks.flights.data import ARCHIVE, read_flights
    from pocketfl_benchmarks.flights.task import COHORT, ROUNDS
    from pocketfl_benchmarks.machine import describe_machine

    rounds, cohort = rounds or ROUNDS, cohort or COHORT
    report = measure_report(parameters, bits.spec)
    table = read_flights(ARCHIVE.locate(cache_directory(cache), local=data))
    with Progress(console=Console(stderr=True)) as bar:
        task = bar.add_task("Train with and without an encoding", total=4 * seeds * rounds)
        accuracy = measure_accuracy(
            table,
            encoding=bits.spec,
            seeds=seeds,
            rounds=rounds,
            cohort=cohort,
            progress=lambda: bar.advance(task),
        )
    figures: dict[str, Any] = {**asdict(report), **accuracy, "machine": describe_machine()}
    if as_json:
        typer.echo(json.dumps(figures, indent=2))
    else:
        _show(figures)


def _show(figures: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{figures['bits_per_coordinate']} bits a coordinate")
    table.add_column("")
    table.add_column("", justify="right")
    error = figures["auc_loss_standard_error"]
    within = "" if error is None else f" ± {error:.2f}"
    for name, value in (
        (f"sealed report, {figures['parameters']:,} parameters", f"{figures['report_bytes']:,} B"),
        ("of float32", f"{figures['bytes_ratio_to_float32']:.1%}"),
        ("of a full update is kept", f"{figures['norm_kept']:.1%}"),
        ("coordinates cut off", f"{figures['share_cut_off']:.1e}"),
        ("on the device, processor time", f"{figures['milliseconds']:.1f} ms"),
        ("without an encoding", f"{figures['milliseconds_plain']:.1f} ms"),
        ("AUC, 16 bits", f"{figures['auc_plain']:.4f}"),
        ("AUC, encoded", f"{figures['auc_encoded']:.4f}"),
        ("AUC points lost", f"{figures['auc_loss_points']:.2f}{within}"),
        ("the same without noise", f"{figures['auc_loss_points_without_noise']:.2f}"),
    ):
        table.add_row(name, value)
    Console().print(table)
