"""``pocketfl simulate`` and ``pocketfl tune``; what they need is imported when they run."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from pocketfl_simulation.evaluation import Quality
    from pocketfl_simulation.rounds import SimulatedRound

Task = Annotated[
    str,
    typer.Argument(
        help="A configuration of `pocketfl export` (.toml), or MODULE:FACTORY.", metavar="TASK"
    ),
]
Data = Annotated[
    str, typer.Option(help="A .parquet, .csv or .npz file with a user column, or MODULE:FACTORY.")
]
User = Annotated[str, typer.Option(help="The column that says whose an example is.")]
Devices = Annotated[
    int | None, typer.Option(min=1, help="Size of the fleet; those in the data by default.")
]
Rounds = Annotated[int, typer.Option(min=1, help="Rounds; fewer if the plan's budget ends before.")]
Holdout = Annotated[float, typer.Option(help="Share of devices that only judge models.")]
Seed = Annotated[int, typer.Option(min=0, help="Of coins, batches and rounding; never of noise.")]
Engine = Annotated[str, typer.Option(help="auto, onnxruntime or torch.")]
Threads = Annotated[int | None, typer.Option(min=1, help="That train; one a core by default.")]


def simulate(
    task: Task,
    *,
    data: Data,
    devices: Devices = None,
    rounds: Rounds = 20,
    cohort: Annotated[
        int | None, typer.Option(min=1, help="Expected reports of a round; the plan's by default.")
    ] = None,
    clip_norm: Annotated[float | None, typer.Option(help="Instead of the plan's.")] = None,
    noise_multiplier: Annotated[float | None, typer.Option(help="Instead of the plan's.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Instead of the plan's.")] = None,
    server_optimizer: Annotated[str | None, typer.Option(help="sgd or adam.")] = None,
    server_learning_rate: Annotated[float | None, typer.Option(help="Of that optimizer.")] = None,
    holdout: Holdout = 0.2,
    user: User = "user",
    time_column: Annotated[
        str | None, typer.Option("--time", help="The column with Unix times, if there is one.")
    ] = None,
    seed: Seed = 0,
    engine: Engine = "auto",
    threads: Threads = None,
    evaluate_every: Annotated[int, typer.Option(min=1, help="Rounds from one judgement on.")] = 5,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """Run a task's rounds on a fleet in this process: the plan's own training, noise and accountant."""
    from pocketfl_simulation.rounds import Simulation
    from pocketfl_simulation.scenario import Changes, make_scenario

    scenario = make_scenario(
        task,
        data,
        changes=Changes(
            devices=devices,
            cohort=cohort,
            clip_norm=clip_norm,
            noise_multiplier=noise_multiplier,
            learning_rate=learning_rate,
            server_learning_rate=server_learning_rate,
            server_optimizer=server_optimizer,
        ),
        holdout=holdout,
        user=user,
        time=time_column,
    )
    lines: list[dict[str, Any]] = []
    with Simulation(scenario.task, scenario.data, _settings(seed, engine, threads)) as simulation:
        if not as_json:
            typer.echo(_HEADER)
        began = time.perf_counter()
        for done in simulation.run(rounds):
            quality = None
            last = done.round == rounds
            if scenario.evaluator is not None and (done.round % evaluate_every == 0 or last):
                quality = scenario.evaluator.judge(simulation.parameters)
            lines.append(_record(done, quality))
            if not as_json:
                typer.echo(_line(done, quality))
        seconds = time.perf_counter() - began
        trained = sum(line["reports"] for line in lines if line["state"] == "finished")
        figures = {
            "devices": len(scenario.data),
            "rounds": lines,
            "engine": simulation.engine.name if trained else None,
            "device": simulation.engine.device if trained else None,
            "devices_per_second": trained / sum(line["seconds"] for line in lines),
            "epsilon": simulation.epsilon,
            "delta": None if (dp := scenario.task.plan.manifest.dp) is None else dp.delta,
            "seconds": seconds,
        }
    if as_json:
        typer.echo(json.dumps(figures, indent=2))
        return
    typer.echo(
        f"{len(lines)} rounds of {figures['devices']:,} devices in {seconds:.1f} s: "
        f"{figures['devices_per_second']:,.0f} devices a second on {figures['engine']} "
        f"({figures['device']})"
    )
    if len(lines) < rounds:
        typer.echo("the plan affords no further release")


_HEADER = " round   cohort  reports  clipped   norm  epsilon  quality on held-out devices"


def _line(done: SimulatedRound, quality: Quality | None) -> str:
    if done.state == "aborted":
        return f"{done.round:6} {done.cohort:8} {done.reports:8}  aborted: below the cohort floor"
    epsilon = "   none" if done.epsilon is None else f"{done.epsilon:7.2f}"
    text = (
        f"{done.round:6} {done.cohort:8} {done.reports:8} {100 * done.clipped_share:6.0f} % "
        f"{done.median_norm:6.3g}  {epsilon}"
    )
    return text if quality is None else f"{text}  {describe(quality)}"


def describe(quality: Quality) -> str:
    """Return a model's quality in a few words."""
    parts = [f"loss {quality.loss:.4f}"]
    if quality.auc is not None:
        parts.append(f"AUC {quality.auc:.4f}")
    if quality.accuracy is not None:
        parts.append(f"accuracy {quality.accuracy:.4f}")
    return ", ".join(parts)


def _record(done: SimulatedRound, quality: Quality | None) -> dict[str, Any]:
    import dataclasses
    import math

    values = dataclasses.asdict(done)
    values["quality"] = None if quality is None else dataclasses.asdict(quality)
    # JSON has no NaN.
    return {
        name: None if isinstance(value, float) and math.isnan(value) else value
        for name, value in values.items()
    }


def _settings(seed: int, engine: str, threads: int | None) -> Any:
    from pocketfl_simulation.engines.interface import ENGINES
    from pocketfl_simulation.rounds import SimulationSettings

    if engine not in ("auto", *ENGINES):
        raise typer.BadParameter(f"engine is auto, {' or '.join(ENGINES)}")
    values: dict[str, Any] = {"seed": seed, "engine": engine}
    if threads is not None:
        values["threads"] = threads
    return SimulationSettings(**values)
