"""Sweeps: an Optuna study over a scenario's settings that can be stopped and gone on with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pocketfl.errors import PocketFLError
from pocketfl_simulation.errors import SimulationError
from pocketfl_simulation.rounds import Simulation, SimulationSettings
from pocketfl_simulation.scenario import Changes, Scenario

if TYPE_CHECKING:
    from optuna import Study, Trial

SETTINGS: Final = (
    "learning_rate",
    "clip_norm",
    "noise_multiplier",
    "server_learning_rate",
    "cohort",
)


@dataclass(frozen=True, kw_only=True)
class Range:
    """Where a setting is looked for, by its logarithm.

    Attributes
    ----------
    low, high : float
        Both included; equal for one that is fixed.
    """

    low: float
    high: float

    def __post_init__(self) -> None:
        if not 0 < self.low <= self.high:
            raise SimulationError("a range is LOW:HIGH, with LOW above 0 and at most HIGH")

    @classmethod
    def parse(cls, text: str) -> Range:
        """Read ``LOW:HIGH`` or one number."""
        low, _, high = text.partition(":")
        try:
            return cls(low=float(low), high=float(high or low))
        except ValueError:
            raise SimulationError(f"{text!r} is no range such as 0.05:0.8") from None


@dataclass(frozen=True, kw_only=True)
class Tried:
    """What a trial came to.

    Attributes
    ----------
    number : int
        Of the trial.
    settings : dict of str to float
        That it ran with.
    quality : float
        AUC or accuracy on the devices held out, or minus the loss.
    epsilon : float or None
        Spent by the rounds that it ran; None without privacy.
    rounds : int
        That its plan afforded.
    """

    number: int
    settings: dict[str, float]
    quality: float
    epsilon: float | None
    rounds: int


def tune(
    scenario: Scenario,
    ranges: Mapping[str, Range],
    *,
    path: Path,
    name: str,
    trials: int,
    rounds: int,
    settings: SimulationSettings,
    progress: Callable[[Tried], None] | None = None,
) -> list[Tried]:
    """Run a study's trials until there are so many, and return all of them, the best first.

    Parameters
    ----------
    scenario : Scenario
        With devices held out.
    ranges : mapping of str to Range
        By the names of :data:`SETTINGS`.
    path : Path
        SQLite file that keeps the study; one that exists is gone on with.
    name : str
        Of the study in it.
    trials, rounds : int
        Trials in all, those of earlier runs included; rounds of each.
    settings : SimulationSettings
        Of all trials alike.
    progress : callable, optional
        Told of each trial.

    Raises
    ------
    SimulationError
        If nobody was held out, or a setting is unknown.
    """
    import optuna

    unknown = sorted(set(ranges) - set(SETTINGS))
    if unknown or not ranges:
        raise SimulationError(f"give ranges of {', '.join(SETTINGS)}; not {unknown or 'none'}")
    if scenario.evaluator is None:
        raise SimulationError("a sweep needs devices that judge: give a holdout above 0")
    evaluator = scenario.evaluator
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        storage=f"sqlite:///{path}",
        study_name=name,
        direction="maximize",
        load_if_exists=True,
        sampler=optuna.samplers.TPESampler(seed=settings.seed + _finished(path, name)),
    )

    def objective(trial: Trial) -> float:
        chosen = {key: _suggest(trial, key, span) for key, span in ranges.items()}
        cohort = chosen.pop("cohort", None)
        changes = Changes(cohort=None if cohort is None else round(cohort), **chosen)  # type: ignore[arg-type]
        try:
            changed = scenario.changed(changes)
            with Simulation(changed.task, scenario.data, settings) as simulation:
                done = list(simulation.run(rounds))
                quality = evaluator.judge(simulation.parameters).headline
        except PocketFLError as error:
            # A rate at which training diverges is a finding, not the end of the sweep.
            trial.set_user_attr("failed", str(error))
            raise optuna.TrialPruned(str(error)) from error
        trial.set_user_attr("epsilon", simulation.epsilon)
        trial.set_user_attr("rounds", len(done))
        return quality

    # Of trials that failed, not more than twice as many as were asked for.
    while len(_complete(study)) < trials and len(study.trials) < 3 * trials:
        study.optimize(objective, n_trials=1)
        last = study.trials[-1]
        if progress is not None and last.value is not None:
            progress(_tried(last))
    return sorted(map(_tried, _complete(study)), key=lambda tried: -tried.quality)


def _suggest(trial: Trial, name: str, span: Range) -> float:
    if span.low == span.high:
        return span.low
    if name == "cohort":
        return int(trial.suggest_int(name, round(span.low), round(span.high), log=True))
    return float(trial.suggest_float(name, span.low, span.high, log=True))


def _finished(path: Path, name: str) -> int:
    """Return the number of trials so far: a study that goes on must not draw the same ones again."""
    import optuna

    if not path.exists():
        return 0
    try:
        return len(optuna.load_study(study_name=name, storage=f"sqlite:///{path}").trials)
    except KeyError:
        return 0


def _complete(study: Study) -> list[Any]:
    return [trial for trial in study.trials if trial.value is not None]


def _tried(trial: Any) -> Tried:
    return Tried(
        number=trial.number,
        settings=dict(trial.params),
        quality=float(trial.value),
        epsilon=trial.user_attrs.get("epsilon"),
        rounds=int(trial.user_attrs.get("rounds", 0)),
    )
