"""From a torch model to one signed plan: the exporter's front door."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from torch import nn

from pocketfl.encoding import EncodingSpec
from pocketfl.features.pipeline import FeaturePipeline
from pocketfl.features.transforms import FeatureSpec, FieldSpec, InputSpec, LabelSpec
from pocketfl.features.transforms import Tensor as TensorColumn
from pocketfl.plan import Plan, build_plan, write_plan
from pocketfl.plan.acceptance import AcceptanceSpec
from pocketfl.plan.aggregation import AggregationSpec, BudgetSpec, DifferentialPrivacySpec
from pocketfl.plan.card import CARD_PART, ModelCard
from pocketfl.plan.manifest import EligibilitySpec, Privacy
from pocketfl.plan.models import ModelSpec, TensorSpec
from pocketfl.plan.storage import Storage, encode_parameters
from pocketfl.plan.training import TrainingSpec
from pocketfl_export.backends import PARTS, BackEnd, back_ends
from pocketfl_export.cards import make_card
from pocketfl_export.errors import ExportError, ParityError
from pocketfl_export.gate import run_gate
from pocketfl_export.inference import Inference, check_precisions, make_inference
from pocketfl_export.parity import ParitySettings
from pocketfl_export.preconditions import check_preconditions
from pocketfl_export.problem import ExampleInputs, Loss, TrainingProblem, make_problem

COLLECTION = "examples"
"""Collection that a plan without features reads."""


def export_plan(
    model: nn.Module,
    loss: Loss,
    example_inputs: ExampleInputs,
    example_targets: torch.Tensor,
    path: str | Path,
    *,
    name: str,
    version: str,
    signing_key: Ed25519PrivateKey,
    aggregation: AggregationSpec,
    encoding: EncodingSpec | None = None,
    privacy: Privacy = "gaussian",
    dp: DifferentialPrivacySpec | None = None,
    budget: BudgetSpec | None = None,
    training: TrainingSpec | None = None,
    features: FeatureSpec | None = None,
    eligibility: EligibilitySpec | None = None,
    acceptance: AcceptanceSpec | None = None,
    runtimes: Iterable[str] = ("onnxruntime", "executorch"),
    inference: Iterable[str] | Mapping[str, Iterable[str]] = ("float32",),
    inference_examples: Mapping[str, torch.Tensor] | None = None,
    batch_size: int | None = None,
    storage: Storage = "float32",
    parity: ParitySettings | None = None,
    card: ModelCard | None = None,
) -> Plan:
    """Export a model for on-device training, check it against eager torch, and write one signed plan.

    Nothing is written unless every runtime trains, evaluates and predicts as torch does.

    Parameters
    ----------
    model : torch.nn.Module
        In the mode in which it is to be trained; its present parameters are the plan's initial ones.
        Buffers and frozen parameters become constants of the graphs.
    loss : callable
        ``loss(outputs, target)``, a mean over the examples.
    example_inputs : Tensor, sequence or mapping of Tensor
        One batch of inputs, in the order or by the names of ``forward``'s parameters; axis 0 is the
        batch. Realistic values: the gate draws its batches from them.
    example_targets : Tensor
        The batch's targets, float32 or int64.
    path : str or Path
        Where the plan goes; replaced only once the new one is complete.
    name, version : str
        The modeller's name for the plan.
    signing_key : Ed25519PrivateKey
        The modeller's key; see :func:`pocketfl.plan.generate_signing_key`.
    aggregation : AggregationSpec
        Bounds of reports and rounds.
    encoding : EncodingSpec, optional
        Makes reports a quarter of their size (4 bits), or half; ``aggregation`` gets the ``norm_bound``
        that suits it.
    privacy : {"gaussian", "none"}
        ``none`` labels every model that comes of the plan, for life.
    dp : DifferentialPrivacySpec, optional
        Noise and budget; required for ``gaussian``.
    budget : BudgetSpec, optional
        The account that the plan shares with statistics and other plans.
    training : TrainingSpec, optional
        How a device trains; its optimizer and its clipping are compiled into the training step.
    features : FeatureSpec, optional
        How examples become tensors. Without it every input is a field of that name in the collection
        ``examples``, as it is, and the target is the field ``target``.
    acceptance : AcceptanceSpec, optional
        What a device's own examples may say against a new version.
    eligibility : EligibilitySpec, optional
        What a device must have.
    runtimes : iterable of {"onnxruntime", "executorch"}
        What to export for.
    inference : iterable of {"float32", "int8_static", "int8_dynamic"}, or mapping of runtime to such
        Ways to predict with this model's own parameters; see :mod:`pocketfl_export.inference`.
    inference_examples : mapping of str to Tensor, optional
        Inputs that 8 bits are calibrated and measured on; without them, mixtures of the example's rows.
    batch_size : int, optional
        Rows of the graphs' batch, if not those of the example: the example is repeated or cut.
    storage : {"float32", "float16"}
        How parameters are kept and downloaded: ``float16`` halves these bytes and rounds the initial
        parameters, and those of each new version, to 11 significant bits. Devices train in float32.
    parity : ParitySettings, optional
        How hard the gate looks.
    card : ModelCard, optional
        What people should know about the model; it goes into the plan with counted costs beside it.

    Returns
    -------
    Plan
        As it was written.

    Raises
    ------
    ExportError
        If an argument cannot be used; the message names it.
    ParityError
        If a runtime would not train as torch does, or not predict well enough in a precision that was
        asked for; names the operator and a rewrite.
    pocketfl.errors.PlanError
        If what the manifest would say is not sound.
    """
    target_path = Path(path)
    _check_arguments(target_path, signing_key, privacy, dp)
    chosen = back_ends(runtimes)
    settings = parity or ParitySettings()
    example_inputs, example_targets = _resize(example_inputs, example_targets, batch_size)
    problem = make_problem(model, loss, example_inputs, example_targets, training, storage=storage)
    features = features or default_features(problem.spec)
    # Before the costly part: a plan whose features do not fit is of no use.
    FeaturePipeline(features, model=problem.spec)
    check_preconditions(problem, seed=settings.seed)
    result = run_gate(problem, chosen, settings)
    result.report.require()
    if encoding is not None:
        aggregation = aggregation.encoded(encoding, parameters=problem.spec.parameter_count)
    predictions = _make_inference(
        problem, chosen, result.parts, inference, inference_examples, seed=settings.seed
    )
    parameters = encode_parameters(problem.initial_parameters().numpy(), storage)
    parts = {
        **result.parts,
        **{name: data for made in predictions.values() for name, data in made.parts.items()},
    }
    made_card = make_card(problem, chosen, parts, result, card)
    plan = build_plan(
        name=name,
        version=version,
        privacy=privacy,
        model=problem.spec,
        training=problem.training,
        features=features,
        aggregation=aggregation,
        dp=dp,
        budget=budget,
        eligibility=eligibility,
        acceptance=acceptance,
        runtimes={
            back_end.name: back_end.spec(
                inference=made.ways if (made := predictions.get(back_end.name)) else None
            )
            for back_end in chosen
        },
        parts={
            **parts,
            problem.spec.parameters_part: parameters,
            CARD_PART: made_card.to_json(),
        },
        signing_key=signing_key,
    )
    write_plan(plan, target_path)
    return plan


def _make_inference(
    problem: TrainingProblem,
    chosen: Iterable[BackEnd],
    parts: Mapping[str, bytes],
    wanted: Iterable[str] | Mapping[str, Iterable[str]],
    examples: Mapping[str, torch.Tensor] | None,
    *,
    seed: int,
) -> dict[str, Inference]:
    chosen = tuple(chosen)
    names = [back_end.name for back_end in chosen]
    if not isinstance(wanted, Mapping):
        wanted = dict.fromkeys(names, tuple(wanted))
    for name in set(wanted) - set(names):
        raise ExportError(f"inference names the runtime {name!r}; this plan is for {names}")
    made = {}
    for back_end in chosen:
        precisions = check_precisions(wanted.get(back_end.name, ()))
        if len(precisions) == 1:  # The graph that takes any parameters, which every plan has.
            continue
        own = {name: parts[name] for name in map(back_end.part_name, PARTS)}
        made[back_end.name] = make_inference(
            problem, back_end, own, precisions, examples=examples, seed=seed
        )
    refused = [refusal for each in made.values() for refusal in each.refused]
    if refused:
        raise ParityError(refused)
    return made


def default_features(model: ModelSpec) -> FeatureSpec:
    """Return features that take every input and the target as the app stores them.

    Raises
    ------
    ExportError
        If an input is no float: an index needs its public vocabulary, which only the modeller knows.
    """
    fields = []
    for spec in model.inputs:
        if spec.dtype != "float32":
            raise ExportError(
                f"input {spec.name!r} is {spec.dtype}: say how it is made by features="
                "FeatureSpec(...), with one 'index' column and its vocabulary per element"
            )
        fields.append(_field(spec))
    if model.target.dtype == "int64" and model.target.shape == ():
        fields.append(FieldSpec(name="target", type="int"))
    elif model.target.dtype == "float32":
        fields.append(_field(model.target))
    else:
        raise ExportError(
            f"a target of {model.target.dtype} with shape {model.target.shape} cannot be stored: use "
            "one int64 per example, or float32"
        )
    return FeatureSpec(
        collection=COLLECTION,
        fields=tuple(fields),
        inputs=tuple(
            InputSpec(tensor=spec.name, columns=(TensorColumn(field=spec.name),))
            for spec in model.inputs
        ),
        label=LabelSpec(field="target"),
    )


def _field(spec: TensorSpec) -> FieldSpec:
    if spec.shape == ():
        return FieldSpec(name=spec.name, type="float")
    return FieldSpec(name=spec.name, type="tensor", shape=spec.shape)


def _check_arguments(
    path: Path, signing_key: Ed25519PrivateKey, privacy: Privacy, dp: DifferentialPrivacySpec | None
) -> None:
    if not isinstance(signing_key, Ed25519PrivateKey):
        raise ExportError(
            f"signing_key is {type(signing_key).__name__}; make one with "
            "pocketfl.plan.generate_signing_key(), or load one with load_signing_key(path)"
        )
    if path.is_dir():
        raise ExportError(f"{path} is a folder; name the plan's file")
    if not path.parent.is_dir():
        raise ExportError(f"the folder {path.parent} does not exist")
    if (dp is None) != (privacy == "none"):
        raise ExportError(
            "privacy='gaussian' needs dp=DifferentialPrivacySpec(...); privacy='none' takes none, and "
            "its models say so for life"
        )


def _resize(
    inputs: ExampleInputs, targets: torch.Tensor, rows: int | None
) -> tuple[ExampleInputs, torch.Tensor]:
    if rows is None:
        return inputs, targets
    if rows < 1:
        raise ExportError(f"batch_size is {rows}; it must be at least 1")

    def resize(value: Any) -> Any:
        if not isinstance(value, torch.Tensor) or value.dim() == 0 or len(value) == 0:
            return value  # Left for the checks that say what is wrong with it.
        return value[torch.arange(rows) % len(value)]

    if isinstance(inputs, torch.Tensor):
        return resize(inputs), resize(targets)
    if isinstance(inputs, dict):
        return {name: resize(value) for name, value in inputs.items()}, resize(targets)
    return tuple(resize(value) for value in inputs), resize(targets)
