"""From what a command line says to a simulation: the fleet's size, who judges, what is changed."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import numpy as np

from pocketfl.plan.aggregation import AggregationSpec, DifferentialPrivacySpec
from pocketfl.plan.asynchronous import AsynchronousSpec
from pocketfl_server.optimizers import OptimizerSpec
from pocketfl_simulation.data import FleetData, SelectedData, pooled
from pocketfl_simulation.errors import SimulationError
from pocketfl_simulation.evaluation import Evaluator, is_held_out
from pocketfl_simulation.files import load_data
from pocketfl_simulation.tasks import SimulationTask, load_task


@dataclass(frozen=True, kw_only=True)
class Changes:
    """What differs from the task as it is written; None leaves it as it is.

    Attributes
    ----------
    devices : int or None
        Number of devices; more than the data have are made by using them again.
    cohort : int or None
        Expected reports of a round.
    clip_norm, noise_multiplier, learning_rate, server_learning_rate : float or None
        Of the plan's bounds, its noise, local training, and the server's optimizer.
    server_optimizer : {"sgd", "adam"} or None
        Its kind.
    asynchronous : AsynchronousSpec or None
        Of rounds that wait for nobody; nobody tosses a coin then.
    """

    devices: int | None = None
    cohort: int | None = None
    clip_norm: float | None = None
    noise_multiplier: float | None = None
    learning_rate: float | None = None
    server_learning_rate: float | None = None
    server_optimizer: str | None = None
    asynchronous: AsynchronousSpec | None = None


@dataclass(frozen=True)
class Scenario:
    """A task and two fleets: one that trains and one that judges.

    Attributes
    ----------
    task : SimulationTask
        For exactly the devices that train.
    data : FleetData
        What those hold.
    evaluator : Evaluator or None
        None where nobody was held out.
    """

    task: SimulationTask
    data: FleetData
    evaluator: Evaluator | None

    def changed(self, changes: Changes) -> Scenario:
        """Return the scenario under other settings; the number of devices stays."""
        if changes.devices not in (None, len(self.data)):
            raise SimulationError("the number of devices is chosen when a scenario is made")
        return dataclasses.replace(self, task=change(self.task, changes, devices=len(self.data)))


def make_scenario(
    source: str,
    data_source: str,
    *,
    changes: Changes | None = None,
    holdout: float = 0.2,
    user: str = "user",
    time: str | None = None,
) -> Scenario:
    """Load a task and its data, and hold some devices out.

    Parameters
    ----------
    source, data_source : str
        As for :func:`~.tasks.load_task` and :func:`~.files.load_data`.
    changes : Changes, optional
        What differs from the task as it is written.
    holdout : float
        Share of devices that only judge, chosen by their names.
    user, time : str
        Columns of the data.

    Raises
    ------
    SimulationError
        If no device is left on one of the sides.
    """
    if not 0 <= holdout < 1:
        raise SimulationError("holdout is a share of the devices: at least 0 and below 1")
    changes = changes or Changes()
    task = load_task(source)
    data = load_data(data_source, task.plan.manifest, user=user, time=time)
    judges = np.array([is_held_out(data.name(d), holdout) for d in range(len(data))], dtype=bool)
    training = np.flatnonzero(~judges)
    if len(training) == 0 or (holdout and not judges.any()):
        raise SimulationError(
            f"holding out {holdout:g} of {len(data)} devices leaves none on one side: change --holdout"
        )
    evaluator = None
    if holdout:
        evaluator = Evaluator(task.problem, pooled(data, np.flatnonzero(judges).tolist()))
    devices = changes.devices or len(training)
    fleet = SelectedData(data, training[np.arange(devices) % len(training)])
    return Scenario(change(task, changes, devices=devices), fleet, evaluator)


def change(task: SimulationTask, changes: Changes, *, devices: int) -> SimulationTask:
    """Return a task for a fleet of this size with some settings changed.

    Raises
    ------
    SimulationError
        If a setting cannot be had.
    """
    manifest = task.plan.manifest
    aggregation = scale_bounds(manifest.aggregation, devices=devices, cohort=changes.cohort)
    dp: DifferentialPrivacySpec | None = manifest.dp
    training, optimizer = manifest.required_training, task.optimizer
    try:
        if changes.clip_norm is not None:
            aggregation = dataclasses.replace(aggregation, clip_norm=changes.clip_norm)
        if changes.asynchronous is not None:
            aggregation = dataclasses.replace(
                aggregation, asynchronous=changes.asynchronous, sampling_probability=1.0
            )
        if changes.noise_multiplier is not None:
            if dp is None:
                raise SimulationError("the task has no privacy: there is no noise to change")
            dp = dataclasses.replace(dp, noise_multiplier=changes.noise_multiplier)
        if changes.learning_rate is not None:
            training = dataclasses.replace(training, learning_rate=changes.learning_rate)
        optimizer = _optimizer(optimizer, changes)
    except ValueError as error:
        raise SimulationError(str(error)) from None
    return task.changed(aggregation=aggregation, dp=dp, training=training, optimizer=optimizer)


def _optimizer(optimizer: OptimizerSpec, changes: Changes) -> OptimizerSpec:
    if changes.server_optimizer not in (None, "sgd", "adam"):
        raise SimulationError("the server's optimizer is sgd or adam")
    values: dict[str, object] = {}
    if changes.server_optimizer is not None:
        values["kind"] = changes.server_optimizer
    if changes.server_learning_rate is not None:
        values["learning_rate"] = changes.server_learning_rate
    return dataclasses.replace(optimizer, **values)  # type: ignore[arg-type]


def scale_bounds(
    aggregation: AggregationSpec, *, devices: int, cohort: int | None = None
) -> AggregationSpec:
    """Return the bounds for a fleet of another size: the cohort stays what it was, if there are enough.

    Raises
    ------
    SimulationError
        If the cohort is larger than the fleet.
    """
    if cohort is None and devices == aggregation.population:
        return aggregation
    if cohort is not None and not 1 <= cohort <= devices:
        raise SimulationError(f"a cohort of {cohort} does not fit a fleet of {devices} devices")
    everybody = aggregation.sampling_probability == 1.0 and cohort is None
    expected = devices if everybody else min(cohort or aggregation.expected_cohort, devices)
    highest = max(1, math.floor(expected - 6 * math.sqrt(expected)))
    if expected == devices:
        highest = devices
    return dataclasses.replace(
        aggregation,
        population=devices,
        sampling_probability=expected / devices,
        cohort_floor=min(aggregation.cohort_floor, highest),
    )
