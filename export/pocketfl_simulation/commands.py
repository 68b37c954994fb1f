"""``pocketfl simulate`` and ``pocketfl tune``; what they need is imported when they run."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from pocketfl_simulation.behaviours import FleetSettings
    from pocketfl_simulation.clocked import ClockedFleet
    from pocketfl_simulation.evaluation import Quality
    from pocketfl_simulation.rounds import Simulation, SimulationSettings
    from pocketfl_simulation.scenario import Scenario

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
Engine = Annotated[str, typer.Option(help="auto, onnxruntime, torch, dense, eager or compiled.")]
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
    clock: Annotated[
        bool, typer.Option(help="Let phones come and go on a virtual clock; some reports are lost.")
    ] = False,
    fleet_file: Annotated[
        Path | None,
        typer.Option("--fleet", help="With a clock: a .toml file that says how phones behave."),
    ] = None,
    deadline_hours: Annotated[
        float | None,
        typer.Option(min=0.1, help="With a clock: how long a round is open; 12 by default."),
    ] = None,
    target: Annotated[
        float | None, typer.Option(help="With a clock: say when this AUC or accuracy is reached.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """Run a task's rounds on a fleet in this process: the plan's own training, noise and accountant."""
    from pocketfl.budgets.meter import highest_resident_bytes
    from pocketfl_simulation.clocked import ClockedFleet
    from pocketfl_simulation.scenario import Changes, make_scenario

    behaviour = _fleet_settings(fleet_file, deadline_hours) if clock or fleet_file else None
    buffer = None if behaviour is None else behaviour.asynchronous
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
            asynchronous=None if buffer is None else buffer.spec,
        ),
        holdout=holdout,
        user=user,
        time=time_column,
    )
    fleet = None
    if behaviour is not None:
        fleet = ClockedFleet(behaviour, devices=len(scenario.data), seed=seed, target=target)
    lines: list[dict[str, Any]] = []
    with _simulation(scenario, fleet, behaviour, _settings(seed, engine, threads)) as simulation:
        began = time.perf_counter()
        for line, values in _run(simulation, scenario, fleet, rounds, evaluate_every):
            if not as_json:
                typer.echo(line)
            if values is not None:
                lines.append(values)
        seconds = time.perf_counter() - began
        trained = sum(line["reports"] for line in lines if line.get("state") != "aborted")
        figures = {
            "devices": len(scenario.data),
            "rounds": lines,
            "engine": simulation.engine.name if trained else None,
            "device": simulation.engine.device if trained else None,
            "devices_per_second": trained / max(seconds, 1e-9),
            "epsilon": simulation.epsilon,
            "delta": None if (dp := scenario.task.plan.manifest.dp) is None else dp.delta,
            "seconds": seconds,
            "peak_rss_mb": None
            if (peak := highest_resident_bytes(of_program=True)) is None
            else peak / 1e6,
            "fleet": None if fleet is None else fleet.figures(),
        }
    if as_json:
        typer.echo(json.dumps(figures, indent=2))
        return
    typer.echo(
        f"{len(lines)} rounds of {figures['devices']:,} devices in {seconds:.1f} s: "
        f"{figures['devices_per_second']:,.0f} devices a second on {figures['engine']} "
        f"({figures['device']})"
    )
    if fleet is not None:
        typer.echo(fleet.describe())
    if len(lines) < rounds:
        typer.echo("the plan affords no further release")


def _fleet_settings(path: Path | None, deadline_hours: float | None) -> FleetSettings:
    import dataclasses

    from pocketfl_simulation.behaviours import FleetSettings, read_fleet

    settings = FleetSettings() if path is None else read_fleet(path)
    if deadline_hours is None:
        return settings
    return dataclasses.replace(settings, deadline_hours=deadline_hours)


def _simulation(
    scenario: Scenario,
    fleet: ClockedFleet | None,
    behaviour: FleetSettings | None,
    settings: SimulationSettings,
) -> Simulation:
    from pocketfl_simulation.buffered import BufferedSimulation
    from pocketfl_simulation.rounds import Simulation

    buffer = None if behaviour is None else behaviour.asynchronous
    if fleet is None or buffer is None:
        return Simulation(scenario.task, scenario.data, settings)
    return BufferedSimulation(
        scenario.task,
        scenario.data,
        fleet.clock,
        reports_per_release=buffer.reports_per_release,
        at_once=buffer.at_once,
        settings=settings,
    )


def _run(
    simulation: Simulation,
    scenario: Scenario,
    fleet: ClockedFleet | None,
    rounds: int,
    evaluate_every: int,
) -> Iterator[tuple[str, dict[str, Any] | None]]:
    """Yield lines of a table and records: first its head, which is no record."""
    from pocketfl_simulation import tables
    from pocketfl_simulation.buffered import BufferedSimulation

    def judge(number: int) -> Quality | None:
        if scenario.evaluator is None or (number % evaluate_every and number != rounds):
            return None
        return scenario.evaluator.judge(simulation.parameters)

    if isinstance(simulation, BufferedSimulation):
        yield tables.RELEASES, None
        for released in simulation.run_releases(rounds):
            quality = judge(released.round)
            if fleet is not None:
                fleet.note(quality, reports=released.reports, wasted=released.wasted)
            yield tables.release_line(released, quality), tables.record(released, quality)
        return
    yield tables.ROUNDS if fleet is None else tables.ROUNDS_ON_A_CLOCK, None
    for done in simulation.run(rounds, reporting=None if fleet is None else fleet.report):
        quality = judge(done.round)
        if fleet is not None:
            fleet.note(quality, reports=done.reports)
        when = None if fleet is None else fleet.last
        yield tables.round_line(done, quality, when), tables.record(done, quality, when)


def _settings(seed: int, engine: str, threads: int | None) -> SimulationSettings:
    from pocketfl_simulation.engines.interface import ENGINES
    from pocketfl_simulation.rounds import SimulationSettings

    if engine not in ("auto", *ENGINES):
        raise typer.BadParameter(f"engine is one of auto, {', '.join(ENGINES)}")
    values: dict[str, Any] = {"seed": seed, "engine": engine}
    if threads is not None:
        values["threads"] = threads
    return SimulationSettings(**values)


def tune(
    task: Task,
    *,
    data: Data,
    study: Annotated[
        Path, typer.Option(help="SQLite file that keeps the study; resumed if there.")
    ],
    name: Annotated[str, typer.Option(help="Of the study in that file.")] = "study",
    trials: Annotated[
        int, typer.Option(min=1, help="In all, those of earlier runs included.")
    ] = 20,
    rounds: Rounds = 20,
    devices: Devices = None,
    learning_rate: Annotated[str | None, typer.Option(help="LOW:HIGH, or one value.")] = None,
    clip_norm: Annotated[str | None, typer.Option(help="LOW:HIGH, or one value.")] = None,
    noise_multiplier: Annotated[str | None, typer.Option(help="LOW:HIGH, or one value.")] = None,
    server_learning_rate: Annotated[
        str | None, typer.Option(help="LOW:HIGH, or one value.")
    ] = None,
    cohort: Annotated[str | None, typer.Option(help="LOW:HIGH, or one value.")] = None,
    holdout: Holdout = 0.2,
    user: User = "user",
    time_column: Annotated[
        str | None, typer.Option("--time", help="The column with Unix times, if there is one.")
    ] = None,
    seed: Seed = 0,
    engine: Engine = "auto",
    threads: Threads = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print all trials as JSON.")] = False,
) -> None:
    """Look for good settings by simulation; the table shows what each costs in privacy."""
    import dataclasses

    from pocketfl_simulation.scenario import Changes, make_scenario
    from pocketfl_simulation.tuning import Range, Tried
    from pocketfl_simulation.tuning import tune as run_study

    given = {
        "learning_rate": learning_rate,
        "clip_norm": clip_norm,
        "noise_multiplier": noise_multiplier,
        "server_learning_rate": server_learning_rate,
        "cohort": cohort,
    }
    ranges = {key: Range.parse(text) for key, text in given.items() if text is not None}
    scenario = make_scenario(
        task, data, changes=Changes(devices=devices), holdout=holdout, user=user, time=time_column
    )

    def progress(tried: Tried) -> None:
        typer.echo(f"trial {tried.number}: {tried.quality:.4f}", err=True)

    found = run_study(
        scenario,
        ranges,
        path=study,
        name=name,
        trials=trials,
        rounds=rounds,
        settings=_settings(seed, engine, threads),
        progress=progress,
    )
    if as_json:
        typer.echo(json.dumps([dataclasses.asdict(tried) for tried in found], indent=2))
        return
    typer.echo(" trial  quality  epsilon  rounds  settings")
    for tried in found:
        epsilon = "   none" if tried.epsilon is None else f"{tried.epsilon:7.2f}"
        settings = ", ".join(f"{key} {value:.4g}" for key, value in tried.settings.items())
        typer.echo(f"{tried.number:6} {tried.quality:8.4f}  {epsilon} {tried.rounds:7}  {settings}")
