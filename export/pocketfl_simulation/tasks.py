"""What is simulated: the plan as it is exported, the model behind it, and the server's optimizer."""

from __future__ import annotations

import dataclasses
import tempfile
from dataclasses import dataclass
from pathlib import Path

from pocketfl.plan import Plan, build_plan, generate_signing_key
from pocketfl.plan.aggregation import AggregationSpec, DifferentialPrivacySpec
from pocketfl.plan.training import TrainingSpec
from pocketfl_export.commands import load_factory
from pocketfl_export.configuration import ExportConfiguration, import_named, read_configuration
from pocketfl_export.errors import ExportError
from pocketfl_export.parity import ParitySettings
from pocketfl_export.plans import export_plan
from pocketfl_export.problem import TrainingProblem, make_problem
from pocketfl_export.rewrites import fix
from pocketfl_server.optimizers import OptimizerSpec
from pocketfl_simulation.errors import SimulationError

AVERAGING = OptimizerSpec(kind="sgd", learning_rate=1.0, momentum=0.0)
"""What a task has unless it says otherwise: the mean update is added."""

_PARITY = ParitySettings(steps=5)
"""A simulation is no release: a few steps show an operator that trains wrongly."""


@dataclass(frozen=True, kw_only=True)
class SimulationTask:
    """A task as a server would run it.

    Attributes
    ----------
    plan : Plan
        Signed by a key of this process's own; what devices would download.
    problem : TrainingProblem
        What it was exported from.
    optimizer : OptimizerSpec
        The server's.
    """

    plan: Plan
    problem: TrainingProblem
    optimizer: OptimizerSpec = AVERAGING

    def changed(
        self,
        *,
        aggregation: AggregationSpec | None = None,
        dp: DifferentialPrivacySpec | None = None,
        training: TrainingSpec | None = None,
        optimizer: OptimizerSpec | None = None,
    ) -> SimulationTask:
        """Return the task with other bounds, noise or rates, without exporting the graphs again.

        Raises
        ------
        SimulationError
            If the local optimizer or what is clipped would change: they are compiled into the graphs.
        pocketfl.errors.PlanError
            If the manifest would not be sound.
        """
        manifest = self.plan.manifest
        before = manifest.required_training
        training = training or before
        if (training.minimizer, training.clipping) != (before.minimizer, before.clipping):
            raise SimulationError("the local optimizer is part of the graphs: export the task anew")
        dp = dp or manifest.dp
        plan = build_plan(
            name=manifest.name,
            version=manifest.version,
            privacy=manifest.privacy,
            model=manifest.model,
            training=training,
            features=manifest.features,
            aggregation=aggregation or manifest.aggregation,
            dp=dp,
            budget=manifest.budget,
            acceptance=manifest.acceptance,
            eligibility=manifest.eligibility,
            runtimes=manifest.runtimes,
            parts={part.name: self.plan.part(part.name) for part in manifest.parts},
            signing_key=generate_signing_key(),
        )
        return dataclasses.replace(
            self,
            plan=plan,
            problem=dataclasses.replace(self.problem, training=training),
            optimizer=optimizer or self.optimizer,
        )


def make_task(
    settings: ExportConfiguration, *, optimizer: OptimizerSpec = AVERAGING
) -> SimulationTask:
    """Export a configuration as ``pocketfl export`` does, for ONNX Runtime alone and into memory.

    Raises
    ------
    ExportError
        As for the export.
    """
    model, loss, inputs, target = load_factory(settings.model)
    if settings.fix:
        model = fix(model).model
    with tempfile.TemporaryDirectory(prefix="pocketfl-simulate-") as folder:
        plan = export_plan(
            model,
            loss,
            inputs,
            target,
            Path(folder, "task.plan"),
            name=settings.name,
            version=settings.version,
            signing_key=generate_signing_key(),
            aggregation=settings.aggregation,
            privacy=settings.privacy,
            dp=settings.dp,
            training=settings.training,
            features=settings.feature_spec(),
            eligibility=settings.eligibility,
            encoding=settings.encoding,
            runtimes=("onnxruntime",),
            batch_size=settings.batch_size,
            parity=_PARITY,
        )
    problem = make_problem(model, loss, inputs, target, settings.training)
    if settings.batch_size is not None:
        problem = dataclasses.replace(problem, spec=plan.manifest.required_model)
    return SimulationTask(plan=plan, problem=problem, optimizer=optimizer)


def load_task(source: str, *, devices: int | None = None) -> SimulationTask:
    """Read what ``pocketfl simulate`` and ``pocketfl tune`` are given.

    Parameters
    ----------
    source : str
        A configuration of ``pocketfl export`` (.toml), or ``MODULE:FACTORY``. The factory returns
        (model, loss, example inputs, example target), which is simulated without privacy, or a
        :class:`SimulationTask`.
    devices : int, optional
        The fleet's size, for a factory that leaves it open.

    Raises
    ------
    ExportError
        If it cannot be read, or not be exported.
    """
    if source.endswith(".toml"):
        return make_task(read_configuration(Path(source)))
    factory = import_named(source)
    if not callable(factory):
        raise ExportError(f"{source} is no function")
    made = factory()
    if isinstance(made, SimulationTask):
        return made
    population = devices or 100
    return make_task(
        ExportConfiguration(
            model=source,
            name="simulation",
            version="1",
            key="",
            out="",
            privacy="none",
            aggregation=AggregationSpec(
                clip_norm=1.0,
                population=population,
                cohort_floor=1,
                max_rounds=1_000_000,
                max_participations=1_000_000,
            ),
            runtimes=("onnxruntime",),
        )
    )
