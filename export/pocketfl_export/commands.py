"""``pocketfl export``: try a model on the gate."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table
from typer.core import TyperGroup

from pocketfl.plan import AggregationSpec, load_signing_key
from pocketfl.plan.storage import Storage
from pocketfl_export.configuration import ExportConfiguration, import_named, read_configuration
from pocketfl_export.errors import ExportError
from pocketfl_export.gate import check_model
from pocketfl_export.nvflare import export_nvflare
from pocketfl_export.parity import ParityReport, ParitySettings
from pocketfl_export.plans import export_plan
from pocketfl_export.problem import ExampleInputs, Loss
from pocketfl_export.rewrites import fix as apply_rewrites


class _PlanByDefault(TyperGroup):
    """A first word that is no command is what to export: ``pocketfl export plan.toml``."""

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        """Put the default command's name in front."""
        if args and args[0] not in self.commands and not args[0].startswith("-"):
            args = ["plan", *args]
        return super().resolve_command(ctx, args)


app = typer.Typer(
    cls=_PlanByDefault,
    help="Export torch models for training on devices: `pocketfl export plan.toml`.",
    no_args_is_help=True,
)


@app.callback()
def group() -> None:
    """Export torch models for training on devices."""


@app.command()
def plan(  # noqa: PLR0917 - typer reads options from the signature
    source: Annotated[
        str,
        typer.Argument(help="A configuration (.toml), or MODULE:FACTORY with the options below."),
    ],
    key: Annotated[Path | None, typer.Option(help="The modeller's private key (PEM).")] = None,
    out: Annotated[Path | None, typer.Option(help="Where the plan goes.")] = None,
    name: Annotated[str, typer.Option(help="Name of the plan.")] = "experiment",
    version: Annotated[str, typer.Option(help="Version of the plan.")] = "1",
    clip_norm: Annotated[float, typer.Option(help="L2 bound of a device's update.")] = 1.0,
    population: Annotated[int, typer.Option(help="Number of devices.")] = 1,
    max_rounds: Annotated[int, typer.Option(help="Most rounds.")] = 100,
    runtime: Annotated[
        list[str] | None, typer.Option("--runtime", help="onnxruntime, executorch; default both.")
    ] = None,
    inference: Annotated[
        list[str] | None, typer.Option("--inference", help="int8_static, int8_dynamic.")
    ] = None,
    fixed: Annotated[bool, typer.Option("--fix", help="Apply the stated rewrites first.")] = False,
) -> None:
    """Write a plan: from a configuration file, or for an experiment WITHOUT PRIVACY from a factory."""
    torch.set_num_threads(1)
    if source.endswith(".toml"):
        if key is not None or out is not None:
            raise typer.BadParameter("key and out stand in the configuration, next to the rest")
        settings = read_configuration(Path(source))
    elif key is None or out is None:
        raise typer.BadParameter("a factory needs --key and --out")
    else:
        settings = ExportConfiguration(
            model=source,
            name=name,
            version=version,
            key=str(key),
            out=str(out),
            privacy="none",
            aggregation=AggregationSpec(
                clip_norm=clip_norm,
                population=population,
                cohort_floor=1,
                max_rounds=max_rounds,
                max_participations=max_rounds,
            ),
            runtimes=tuple(runtime or ("onnxruntime", "executorch")),
            inference=tuple(inference or ()),
            fix=fixed,
        )
    model, loss, inputs, target = load_factory(settings.model)
    if settings.fix:
        model = _fixed(model)
    written = export_plan(
        model,
        loss,
        inputs,
        target,
        settings.out,
        name=settings.name,
        version=settings.version,
        signing_key=load_signing_key(settings.key),
        aggregation=settings.aggregation,
        privacy=settings.privacy,
        dp=settings.dp,
        training=settings.training,
        features=settings.feature_spec(),
        eligibility=settings.eligibility,
        acceptance=settings.acceptance,
        encoding=settings.encoding,
        runtimes=settings.runtimes,
        inference=settings.inference,
        batch_size=settings.batch_size,
        storage=settings.storage,
        card=settings.card,
    )
    typer.echo(
        f"{settings.out}: plan {settings.name} {settings.version}, {len(written.data):,} bytes, "
        f"privacy {settings.privacy}, sha256 {written.sha256}"
    )


@app.command()
def fix(
    factory: Annotated[
        str, typer.Argument(help="MODULE:FACTORY, as for `check`.", metavar="MODULE:FACTORY")
    ],
    batch_norm: Annotated[
        str,
        typer.Option(help="group_norm replaces batch normalisation, freeze keeps its statistics."),
    ] = "group_norm",
    runtime: Annotated[
        list[str] | None, typer.Option("--runtime", help="onnxruntime, executorch; default both.")
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="Training steps to compare.")] = 10,
) -> None:
    """Apply the stated rewrites to a copy of a model, say what changed, and check the result."""
    torch.set_num_threads(1)
    model, loss, inputs, target = load_factory(factory)
    report = check_model(
        _fixed(model, batch_norm=batch_norm),
        loss,
        inputs,
        target,
        runtimes=runtime or ["onnxruntime", "executorch"],
        steps=steps,
    )
    _show(f"{factory}, fixed,", report)
    if not report.ok:
        raise typer.Exit(1)


def _fixed(model: torch.nn.Module, *, batch_norm: str = "group_norm") -> torch.nn.Module:
    try:
        fixed = apply_rewrites(model, batch_norm=batch_norm)  # type: ignore[arg-type]
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    for change in fixed.changes:
        typer.echo(str(change))
    if not fixed.changes:
        typer.echo("nothing has a rewrite that it needs")
    return fixed.model


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
    storage: Annotated[
        Storage, typer.Option(help="float16 halves the parameters' bytes; see what it rounds.")
    ] = "float32",
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
        storage=storage,
    )
    if as_json:
        typer.echo(json.dumps(report.to_json(), indent=2))
    else:
        _show(factory, report)
    if not report.ok:
        raise typer.Exit(1)


@app.command()
def nvflare(
    factory: Annotated[
        str, typer.Argument(help="MODULE:FACTORY, as for `check`.", metavar="MODULE:FACTORY")
    ],
    out: Annotated[Path, typer.Option(help="Where the .pte goes.")],
) -> None:
    """Write the .pte that NVIDIA FLARE's edge clients train: loss, then prediction; names net.*."""
    torch.set_num_threads(1)
    model, loss, inputs, target = load_factory(factory)
    if not isinstance(inputs, torch.Tensor):
        values = list(inputs.values()) if isinstance(inputs, Mapping) else list(inputs)
        if len(values) != 1:
            raise ExportError("NVFlare's devices give a model one tensor; join the inputs into one")
        inputs = values[0]
    program = export_nvflare(model, loss, inputs, target, out)
    typer.echo(
        f"{out}: {len(program):,} bytes, trains as torch does; unsigned and without privacy bounds"
    )


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
    function = import_named(name)
    if not callable(function):
        raise ExportError(f"{name} is no function")
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
    if report.rounding is not None:
        console.print(
            f"stored as float16: initial parameters move by at most {report.rounding:.1e}, before both "
            "sides start",
            highlight=False,
        )
    for refusal in report.refused:
        console.print(f"[red]{refusal.runtime}[/red]: {refusal.operator}: {refusal.reason}")
        console.print(f"  rewrite: {refusal.rewrite}", highlight=False)


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.1e}"
