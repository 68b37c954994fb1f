"""``pocketfl export``: try a model on the gate."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table

from pocketfl_export.errors import ExportError
from pocketfl_export.gate import check_model
from pocketfl_export.parity import ParityReport, ParitySettings
from pocketfl_export.problem import ExampleInputs, Loss

app = typer.Typer(help="Export torch models for training on devices.", no_args_is_help=True)


@app.callback()
def group() -> None:
    """Export torch models for training on devices."""


@app.command()
def check(  # noqa: PLR0917 - typer reads options from the signature
    factory: Annotated[
        str,
        typer.Argument(
            help="MODULE:FUNCTION that returns (model, loss, example_inputs, example_target).",
            metavar="MODULE:FACTORY",
        ),
    ],
    runtime: Annotated[
        list[str] | None, typer.Option("--runtime", help="onnxruntime, executorch; default both.")
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="Training steps to compare.")] = 50,
    tolerance: Annotated[float, typer.Option(help="Largest accepted difference.")] = 1e-5,
    seed: Annotated[int, typer.Option(help="Seed of the random batches.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Train a model beside eager torch on each runtime; exit status 1 if one differs."""
    torch.set_num_threads(1)
    try:
        settings = ParitySettings(steps=steps, tolerance=tolerance, seed=seed)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    model, loss, inputs, target = load_factory(factory)
    report = check_model(
        model,
        loss,
        inputs,
        target,
        runtimes=runtime or ["onnxruntime", "executorch"],
        settings=settings,
    )
    if as_json:
        typer.echo(json.dumps(report.to_json(), indent=2))
    else:
        _show(factory, report)
    if not report.ok:
        raise typer.Exit(1)


def load_factory(name: str) -> tuple[torch.nn.Module, Loss, ExampleInputs, torch.Tensor]:
    """Import a factory and call it; the current folder is searched too.

    Parameters
    ----------
    name : str
        ``package.module:function``.

    Raises
    ------
    ExportError
        If there is no such function, or it does not return four things.
    """
    module_name, separator, function_name = name.partition(":")
    if not separator or not module_name or not function_name:
        raise ExportError(f"{name!r} is not MODULE:FACTORY, such as mymodels:make_mlp")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise ExportError(f"cannot import {module_name!r}: {error}") from error
    function: Callable[[], Any] | None = getattr(module, function_name, None)
    if not callable(function):
        raise ExportError(f"{module_name!r} has no function {function_name!r}")
    result = function()
    if not isinstance(result, tuple) or len(result) != 4:
        raise ExportError(
            f"{name} must return (model, loss, example_inputs, example_target), not "
            f"{type(result).__name__}"
        )
    return result


def _show(factory: str, report: ParityReport) -> None:
    console = Console()
    table = Table(title=f"{factory} against eager torch", title_justify="left")
    table.add_column("largest difference")
    for name in report.runtimes:
        table.add_column(name, justify="right")
    results = list(report.runtimes.values())

    def row(label: str, values: Iterable[object]) -> None:
        table.add_row(label, *map(str, values))

    row("parameters after a step", (_figure(r.max_parameter_error) for r in results))
    row("loss", (_figure(r.max_loss_error) for r in results))
    row("gradient norm", (_figure(r.max_gradient_norm_error) for r in results))
    row("outputs", (_figure(r.max_output_error) for r in results))
    row("steps", (r.steps for r in results))
    row("settled in float64", (r.settled_by_float64 for r in results))
    row("bytes of all graphs", (f"{r.bytes:,}" for r in results))
    row("verdict", ("[green]equal[/green]" if r.ok else "[red]refused[/red]" for r in results))
    console.print(table)
    for refusal in report.refused:
        console.print(f"[red]{refusal.runtime}[/red]: {refusal.operator}: {refusal.reason}")
        console.print(f"  rewrite: {refusal.rewrite}", highlight=False)


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.1e}"
