"""``pocketfl bench zoo`` and ``pocketfl bench compare``; what they need is imported when they run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer


def zoo(  # noqa: PLR0917 - typer reads options from the signature
    model: Annotated[
        list[str] | None, typer.Option("--model", help="Measure only this model; may be repeated.")
    ] = None,
    runtime: Annotated[
        list[str] | None, typer.Option("--runtime", help="onnxruntime, executorch; default both.")
    ] = None,
    batch_size: Annotated[
        list[int] | None,
        typer.Option(
            "--batch-size", min=1, max=4096, help="May be repeated; the first is the main."
        ),
    ] = None,
    repeats: Annotated[int, typer.Option(min=3, help="Turns of each competitor.")] = 25,
    quality: Annotated[
        bool, typer.Option(help="Let models learn from real data, too; fetched once.")
    ] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
    html: Annotated[Path | None, typer.Option(help="Write a page with plots here.")] = None,
) -> None:
    """Measure ten compact models: step times against torch, memory, sizes, 8 bits, a round's cost."""
    from rich.console import Console

    from pocketfl_benchmarks.zoo.measurement import (
        BATCH_SIZES,
        RUNTIMES,
        ZooSettings,
        measure_zoo,
    )
    from pocketfl_benchmarks.zoo.models import ZOO

    for option, given, known in (("model", model, ZOO), ("runtime", runtime, RUNTIMES)):
        for name in given or ():
            if name not in known:
                raise typer.BadParameter(f"unknown {option} {name!r}; known: {', '.join(known)}")
    settings = ZooSettings(
        models=tuple(dict.fromkeys(model or ZOO)),
        runtimes=tuple(dict.fromkeys(runtime or RUNTIMES)),
        batch_sizes=tuple(dict.fromkeys(batch_size or BATCH_SIZES)),
        repeats=repeats,
        with_quality=quality,
    )
    # Progress goes to standard error, so that standard output is nothing but the figures.
    with Console(stderr=True).status("start") as status:
        figures = measure_zoo(settings, progress=status.update)
    if html is not None:
        from pocketfl_benchmarks.zoo.page import write_page

        write_page(figures, html)
    if as_json:
        typer.echo(json.dumps(figures, indent=2))
    else:
        from pocketfl_benchmarks.zoo.table import print_figures

        print_figures(figures)


def compare(
    before: Annotated[Path, typer.Argument(help="Figures of `bench zoo --json`.")],
    after: Annotated[Path, typer.Argument(help="Others.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print the changes as JSON.")] = False,
) -> None:
    """Show what changed between two files of `pocketfl bench zoo --json`."""
    from pocketfl_benchmarks.zoo.comparison import compare_figures, read_figures
    from pocketfl_benchmarks.zoo.table import print_changes

    old, new = read_figures(before), read_figures(after)
    changes = compare_figures(old, new)
    if as_json:
        typer.echo(json.dumps([change.to_json() for change in changes], indent=2))
        return
    machines: list[Any] = [old.get("machine"), new.get("machine")]
    print_changes(changes, machines=machines)
