"""``pocketfl bench device``: import, cold start, memory, a round's overhead, and the store."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Annotated, Any, Final

import typer

_ROWS: Final = 1_000_000


def device(
    *,
    rounds: Annotated[int, typer.Option(min=3, help="Measured rounds.")] = 20,
    starts: Annotated[int, typer.Option(min=1, help="Processes started for each start.")] = 5,
    rows: Annotated[int, typer.Option(min=20_000, help="Examples in the store.")] = _ROWS,
    runtime: Annotated[
        str, typer.Option(help="onnxruntime, or executorch without torch.")
    ] = "onnxruntime",
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """Measure what the SDK costs the device that embeds it, in real rounds."""
    from rich.console import Console
    from rich.status import Status

    from pocketfl.errors import PocketFLError
    from pocketfl.plan.manifest import RUNTIME_NAMES
    from pocketfl_benchmarks.device.measurement import DeviceSettings, measure_device
    from pocketfl_benchmarks.machine import describe_machine

    if runtime not in RUNTIME_NAMES:
        raise typer.BadParameter(f"unknown runtime {runtime!r}; known: {', '.join(RUNTIME_NAMES)}")
    try:
        settings = DeviceSettings(rounds=rounds, starts=starts, rows=rows, runtime=runtime)
    except PocketFLError as error:
        raise typer.Exit(_complain(error)) from None
    machine = describe_machine()
    # Progress goes to standard error, so that standard output is nothing but the figures.
    with (
        tempfile.TemporaryDirectory(prefix="pocketfl-bench-") as folder,
        Status("", console=Console(stderr=True)) as status,
    ):
        try:
            figures = measure_device(Path(folder), settings, progress=status.update)
        except PocketFLError as error:
            raise typer.Exit(_complain(error)) from None
    figures = {**figures, "machine": machine}
    if as_json:
        typer.echo(json.dumps(figures, indent=2))
    else:
        _show(figures)


def _complain(error: Exception) -> int:
    typer.echo(f"Error: {error}", err=True)
    return 1


def _show(figures: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    stored = figures["store"]
    title = f"What the SDK costs a device ({figures['runtime']})"
    table = Table(title=title, title_justify="left")
    table.add_column("")
    table.add_column("", justify="right")
    table.add_column("")
    for name, value, remark in (
        (
            "import",
            f"{figures['import_seconds']:.2f} s",
            f"numpy is {figures['numpy_import_seconds']:.2f} s of it",
        ),
        (
            "cold start",
            f"{figures['cold_start_seconds']:.2f} s",
            "from the start of the process to the first training step",
        ),
        (
            "peak memory",
            f"{figures['peak_rss_mb_over_numpy']:.0f} MB",
            f"beyond Python with numpy, after {figures['rounds']} rounds of a model with "
            f"{figures['parameters']:,} parameters",
        ),
        (
            "overhead of a round",
            f"{figures['round_overhead_ms']:.1f} ms",
            f"beside {figures['round_step_ms']:.1f} ms of training steps; median",
        ),
        (
            "store, append",
            f"{stored['append_per_second']:,.0f} /s",
            f"in batches of 1,000, up to {stored['rows']:,} examples",
        ),
        (
            "store, eviction",
            f"{stored['eviction_pause_ms']:.0f} ms",
            "longest append of 1,000 to a collection that is full",
        ),
    ):
        table.add_row(name, value, remark)
    Console().print(table)
