"""From a model to parts that passed the gate, or to the reasons why they did not."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from pocketfl.errors import PlanError
from pocketfl.features.transforms import FeatureSpec, FieldSpec, InputSpec, LabelSpec
from pocketfl.features.transforms import Tensor as TensorColumn
from pocketfl.plan.aggregation import AggregationSpec
from pocketfl.plan.manifest import Manifest, PartSpec, RuntimeSpec
from pocketfl.plan.schemas import SCHEMA_VERSION
from pocketfl.plan.storage import Storage, encode_parameters
from pocketfl.plan.training import TrainingSpec
from pocketfl_export.backends import PARTS, BackEnd, back_ends
from pocketfl_export.errors import ParityError, Refusal
from pocketfl_export.localization import RunGraph, find_operator
from pocketfl_export.parity import (
    Miss,
    ParityReport,
    ParitySettings,
    RuntimeParity,
    compare_runtime,
    refusals_of,
)
from pocketfl_export.preconditions import check_preconditions
from pocketfl_export.problem import ExampleInputs, Loss, TrainingProblem, make_problem
from pocketfl_export.rewrites import GENERAL_REWRITE, rewrite_for
from pocketfl_export.tracing import TracedGraphs


@dataclass(frozen=True)
class GateResult:
    """What came of a model.

    Attributes
    ----------
    report : ParityReport
        The verdict.
    parts : dict of str to bytes
        Of every runtime that passed, by their names in a plan.
    traced : dict of str to TracedGraphs
        What they were made of, by runtime.
    """

    report: ParityReport
    parts: dict[str, bytes] = field(default_factory=dict)
    traced: dict[str, TracedGraphs] = field(default_factory=dict)


def check_model(
    model: nn.Module,
    loss: Loss,
    example_inputs: ExampleInputs,
    example_target: torch.Tensor,
    *,
    runtimes: Iterable[str] = ("onnxruntime", "executorch"),
    steps: int = 50,
    settings: ParitySettings | None = None,
    training: TrainingSpec | None = None,
    storage: Storage = "float32",
) -> ParityReport:
    """Export a model for each runtime and compare it with eager torch, writing nothing.

    Parameters
    ----------
    model : torch.nn.Module
        In the mode in which it is to be trained.
    loss : callable
        ``loss(outputs, target)``, a mean over the examples.
    example_inputs, example_target : Tensor, or sequence or mapping of Tensor
        One batch; batches like it are drawn from its values.
    runtimes : iterable of {"onnxruntime", "executorch"}
        What to export for.
    steps : int
        Training steps to compare; ignored where ``settings`` are given.
    settings : ParitySettings, optional
        All of the gate's settings.
    training : TrainingSpec, optional
        The optimizer and the clipping that devices train with: plain SGD by default.
    storage : {"float32", "float16"}
        How parameters are kept and downloaded.

    Returns
    -------
    ParityReport
        With every refusal; nothing is raised for a model that is merely refused.

    Raises
    ------
    ExportError
        If the arguments cannot be used at all.
    """
    chosen = back_ends(runtimes)
    settings = settings or ParitySettings(steps=steps)
    try:
        problem = make_problem(
            model, loss, example_inputs, example_target, training, storage=storage
        )
        check_preconditions(problem, seed=settings.seed)
    except ParityError as error:
        names = [back_end.name for back_end in chosen]
        return ParityReport(
            runtimes={name: RuntimeParity(ok=False) for name in names},
            refused=refusals_of(error, names),
        )
    return run_gate(problem, chosen, settings).report


def run_gate(
    problem: TrainingProblem, chosen: Iterable[BackEnd], settings: ParitySettings
) -> GateResult:
    """Export a checked problem for each runtime and compare it with eager torch.

    Parameters
    ----------
    problem : TrainingProblem
        What :func:`~pocketfl_export.preconditions.check_preconditions` accepted.
    chosen : iterable of BackEnd
        What to export for.
    settings : ParitySettings
        How hard to look.

    Returns
    -------
    GateResult
        The report and the exact bytes that were compared.
    """
    runtimes: dict[str, RuntimeParity] = {}
    refused: list[Refusal] = []
    passed: dict[str, bytes] = {}
    traced: dict[str, TracedGraphs] = {}
    for back_end in chosen:
        try:
            traced[back_end.name] = back_end.trace(problem)
            exported = back_end.export_graphs(traced[back_end.name])
        except ParityError as error:
            runtimes[back_end.name] = RuntimeParity(ok=False)
            refused.extend(refusals_of(error, [back_end.name]))
            continue
        parts = {back_end.part_name(part): exported[part] for part in PARTS}
        candidate = CandidatePlan(problem, back_end, parts)
        try:
            result, miss = compare_runtime(problem, candidate, back_end.name, settings=settings)
        except PlanError as error:
            result, miss = RuntimeParity(ok=False), Miss(str(error))
        runtimes[back_end.name] = result
        if miss is None:
            passed.update(parts)
        else:
            refused.append(_explain(traced[back_end.name], back_end, miss))
    report = ParityReport(
        runtimes=runtimes,
        refused=tuple(refused),
        rounding=None if problem.spec.storage is None else problem.rounding,
    )
    return GateResult(report, passed, traced)


def _explain(traced: TracedGraphs, back_end: BackEnd, miss: Miss) -> Refusal:
    operator = None
    if miss.arguments is not None:
        package = importlib.import_module(back_end.package)
        run_graph: RunGraph = package.run_graph
        with contextlib.suppress(Exception):  # The refusal stands; only its operator stays unnamed.
            operator = find_operator(traced.train, miss.arguments, run_graph)
    if operator is None:
        return Refusal(
            operator="the graph as a whole",
            rewrite=GENERAL_REWRITE,
            reason=f"{miss.reason}; no single operator shows it",
            runtime=back_end.name,
        )
    return Refusal(
        operator=operator,
        rewrite=rewrite_for(operator),
        reason=miss.reason,
        runtime=back_end.name,
    )


class CandidatePlan:
    """Parts that are not in a plan yet, in the form in which a runtime opens a plan.

    Parameters
    ----------
    problem : TrainingProblem
        The model.
    back_end : BackEnd
        Whose parts these are.
    parts : mapping of str to bytes
        By their names in a plan.
    spec : RuntimeSpec, optional
        What the manifest says about them, if not only what the back end says of every plan.
    """

    def __init__(
        self,
        problem: TrainingProblem,
        back_end: BackEnd,
        parts: Mapping[str, bytes],
        *,
        spec: RuntimeSpec | None = None,
    ) -> None:
        self._parameters: NDArray[np.float32] = problem.initial_parameters().numpy()
        stored = encode_parameters(self._parameters, problem.spec.stored_as)
        self._parts = {**parts, problem.spec.parameters_part: stored}
        self._manifest = Manifest(
            schema=SCHEMA_VERSION,
            name="candidate",
            version="0",
            privacy="none",
            model=problem.spec,
            training=problem.training,
            features=_any_features(problem),
            aggregation=AggregationSpec(
                clip_norm=1.0, population=1, cohort_floor=1, max_rounds=1, max_participations=1
            ),
            runtimes={back_end.name: spec or back_end.spec()},
            parts=tuple(
                PartSpec(name=name, sha256=sha256(data).hexdigest(), size=len(data))
                for name, data in sorted(self._parts.items())
            ),
        )

    @property
    def manifest(self) -> Manifest:
        """A manifest that says how to open the parts; its privacy and features are never used."""
        return self._manifest

    def part(self, name: str) -> bytes:
        """Return a part."""
        return self._parts[name]

    def initial_parameters(self) -> NDArray[np.float32]:
        """Return the model's parameters."""
        return self._parameters.copy()


def _any_features(problem: TrainingProblem) -> FeatureSpec:
    names = [spec.name for spec in problem.spec.inputs]
    return FeatureSpec(
        collection="examples",
        fields=tuple(FieldSpec(name=name, type="float") for name in [*names, "target"]),
        inputs=tuple(InputSpec(tensor=name, columns=(TensorColumn(field=name),)) for name in names),
        label=LabelSpec(field="target"),
    )
