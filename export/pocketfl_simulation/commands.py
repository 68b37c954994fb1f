"""``pocketfl simulate`` and ``pocketfl tune``; what they need is imported when they run."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

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
Engine = Annotated[str, typer.Option(help="auto, onnxruntime, torch, dense or eager.")]
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
    deadline_hours: Annotated[
        float, typer.Option(min=0.1, help="With --clock: how long a round is open.")
    ] = 12.0,
    target: Annotated[
        float | None, typer.Option(help="With --clock: say when this AUC or accuracy is reached.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """Run a task's rounds on a fleet in this process: the plan's own training, noise and accountant."""
    from pocketfl.budgets.meter import highest_resident_bytes
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
        fleet = _Fleet(len(scenario.data), seed, deadline_hours, target) if clock else None
        began = time.perf_counter()
        for done in simulation.run(rounds, reporting=None if fleet is None else fleet.report):
            quality = None
            last = done.round == rounds
            if scenario.evaluator is not None and (done.round % evaluate_every == 0 or last):
                quality = scenario.evaluator.judge(simulation.parameters)
            lines.append(_record(done, quality))
            if fleet is not None:
                fleet.note(quality)
            if not as_json:
                typer.echo(_line(done, quality))
        seconds = time.perf_counter() - began
        trained = sum(line["reports"] for line in lines if line["state"] == "finished")
        figures = {
            "devices": len(scenario.data),
            "rounds": lines,
            "engine": simulation.engine.name if trained else None,
            "device": simulation.engine.device if trained else None,
            "devices_per_second": trained / max(seconds, 1e-9),
            "epsilon": simulation.epsilon,
            "delta": None if (dp := scenario.task.plan.manifest.dp) is None else dp.delta,
            "seconds": seconds,
            "peak_rss_mb": None if (peak := highest_resident_bytes()) is None else peak / 1e6,
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


class _Fleet:
    """The phones of a simulation on their clock, and what is said of them."""

    def __init__(self, devices: int, seed: int, hours: float, target: float | None) -> None:
        from pocketfl_simulation.fleet import HOUR, FleetBehaviour, FleetClock

        self._clock = FleetClock(FleetBehaviour(), devices=devices, seed=seed)
        self._hour = HOUR
        self._began = self._clock.now
        self._deadline = hours * HOUR
        self._target = target
        self._rounds = self._cohort = self._arrived = 0
        self._lost: dict[str, int] = {}
        self._reached: float | None = None

    def report(self, cohort: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return whose reports arrive, and move the clock to where the round closed."""
        times = self._clock.run_round(cohort, deadline=self._deadline)
        self._rounds += 1
        self._cohort += len(cohort)
        self._arrived += len(times.devices)
        for reason, count in times.lost.items():
            self._lost[reason] = self._lost.get(reason, 0) + count
        return times.devices

    def note(self, quality: Quality | None) -> None:
        """Remember when a model first was as good as the target."""
        if quality is None or self._target is None or self._reached is not None:
            return
        if quality.headline >= self._target:
            self._reached = self._hours

    @property
    def _hours(self) -> float:
        return (self._clock.now - self._began) / self._hour

    def figures(self) -> dict[str, Any]:
        """Return what the virtual time came to."""
        return {
            "virtual_hours": self._hours,
            "rounds_per_day": 24 * self._rounds / max(self._hours, 1e-9),
            "completion_share": self._arrived / max(self._cohort, 1),
            "lost": self._lost,
            "hours_to_target": self._reached,
        }

    def describe(self) -> str:
        """Return the same in words."""
        found = self.figures()
        lost = ", ".join(f"{count:,} {reason}" for reason, count in self._lost.items())
        text = (
            f"virtual time {self._hours:.1f} h: {found['rounds_per_day']:.1f} rounds a day; "
            f"{100 * found['completion_share']:.0f} % of participants reported, lost: {lost}"
        )
        if self._target is None:
            return text
        if self._reached is None:
            return f"{text}\nquality {self._target:g} was not reached"
        return f"{text}\nquality {self._target:g} was reached after {self._reached:.1f} h"


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
