"""``pocketfl demo``: the main job, with progress bars, one table and a report."""

from __future__ import annotations

import contextlib
import json
import time
import webbrowser
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table

from pocketfl_benchmarks.encoding.command import BitsChoice
from pocketfl_benchmarks.flights.background import Advance
from pocketfl_benchmarks.flights.cache import CACHE_VARIABLE, cache_directory
from pocketfl_benchmarks.flights.data import ARCHIVE, read_flights
from pocketfl_benchmarks.flights.report import summary_rows, write_report
from pocketfl_benchmarks.flights.results import NO_PRIVACY, DemoResult
from pocketfl_benchmarks.flights.run import DemoError, DemoSettings, run_demo
from pocketfl_benchmarks.flights.task import COHORT, ROUNDS


class RuntimeChoice(StrEnum):
    """Mobile runtimes to train on."""

    ONNXRUNTIME = "onnxruntime"
    EXECUTORCH = "executorch"


class RichStages:
    """Shows stages as lines with a spinner, a bar where there is something to count, and the time.

    Where the output is no terminal, a line is written when a stage ends.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._progress = Progress(
            SpinnerColumn(finished_text="[green]✓[/]"),
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=console,
            disable=not console.is_terminal,
        )

    def __enter__(self) -> RichStages:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    @contextlib.contextmanager
    def stage(self, name: str, total: int | None = None) -> Iterator[Advance]:
        """Show a stage while the block runs."""
        began = time.perf_counter()
        number = self._progress.add_task(name, total=total)
        yield lambda by: self._progress.update(number, advance=by)
        # A stage may have had nothing to do, because the cache had it.
        end = 1 if total is None else total
        self._progress.update(number, total=end, completed=end)
        if not self._console.is_terminal:
            self._console.print(f"{name}: {time.perf_counter() - began:.1f} s")


def demo(
    *,
    runtime: Annotated[
        RuntimeChoice, typer.Option(help="Mobile runtime that trains and scores.")
    ] = RuntimeChoice.ONNXRUNTIME,
    rounds: Annotated[int, typer.Option(min=1, help="Number of federated rounds.")] = ROUNDS,
    cohort: Annotated[int, typer.Option(min=1, help="Expected reports per round.")] = COHORT,
    seed: Annotated[
        int, typer.Option(min=0, help="Of weights and batches; never of coins or noise.")
    ] = 0,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write the figures to this file.")
    ] = None,
    no_dp: Annotated[
        bool, typer.Option("--no-dp", help=f"Train without noise only: {NO_PRIVACY}.")
    ] = False,
    no_comparison: Annotated[
        bool, typer.Option("--no-comparison", help="Leave out the federated run without noise.")
    ] = False,
    encoding: Annotated[
        BitsChoice | None,
        typer.Option(help="Bits of a report for each coordinate, in all arms; 16 by default."),
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="Local copy of the data archive, for lack of a network.")
    ] = None,
    cache: Annotated[Path | None, typer.Option(help="Cache folder.", envvar=CACHE_VARIABLE)] = None,
    report: Annotated[Path, typer.Option(help="Where to write the HTML report.")] = Path(
        "demo-report/index.html"
    ),
    with_app: Annotated[
        bool, typer.Option("--app", help="Another demo: see 'pocketfl demo --app --help'.")
    ] = False,
    open_report: Annotated[
        bool, typer.Option("--open/--no-open", help="Open the report in a browser.")
    ] = True,
) -> None:
    """Train privately on aircraft that keep their data; compare with a server that has it all."""
    del with_app  # Handled before this command is even loaded.
    began = time.perf_counter()
    console = Console()
    settings = DemoSettings(
        runtime=runtime.value,
        rounds=rounds,
        cohort=cohort,
        seed=seed,
        private=not no_dp,
        unprotected=no_dp or not no_comparison,
        encoding=None if encoding is None else encoding.spec,
    )
    for path in (report, json_file):
        if path is not None:
            _check_writable(path)
    folder = cache_directory(cache)
    with RichStages(console) as stages:
        with stages.stage("Fetch the data"):
            archive = ARCHIVE.locate(folder, local=data)
        with stages.stage("Read the data"):
            table = read_flights(archive)
        result = run_demo(table, settings, cache=folder, stages=stages, began=began)
    _print_table(console, result)
    if json_file is not None:
        json_file.write_text(json.dumps(result.to_json(), indent=2) + "\n")
    write_report(result, report)
    console.print(f"Report: {report.resolve()}")
    if open_report and console.is_terminal:
        webbrowser.open(report.resolve().as_uri())


def _check_writable(path: Path) -> None:
    """Refuse a file that could not be written: better now than in five minutes."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a"):
            pass
    except OSError as error:
        raise DemoError(f"cannot write {path}: {error.strerror}") from None


def _print_table(console: Console, result: DemoResult) -> None:
    table = Table(title="Flights that arrive more than 30 minutes late", title_justify="left")
    table.add_column("")
    table.add_column("", justify="right")
    table.add_column("")
    for row in summary_rows(result):
        table.add_row(row.name, row.value, row.note, end_section=row.ends_section)
    console.print(table)
