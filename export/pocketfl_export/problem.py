"""A model, its loss and one example batch, checked and named: what every back end starts from."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeAlias

import torch
from torch import nn

from pocketfl.plan.models import Dtype, ModelSpec, ParameterSpec, TensorSpec
from pocketfl.plan.storage import LARGEST, Storage, as_stored
from pocketfl.plan.training import TrainingSpec
from pocketfl.runtimes import optimizers
from pocketfl_export.errors import ExportError, UnsupportedModelError
from pocketfl_export.randomness import random_numbers
from pocketfl_export.refusals import refuse_changed_buffers, refuse_stateful_modules
from pocketfl_export.scopes import scope

Loss: TypeAlias = Callable[..., torch.Tensor]
"""Takes the model's outputs and the target, returns the mean over the examples (a scalar)."""

ExampleInputs: TypeAlias = torch.Tensor | Sequence[torch.Tensor] | Mapping[str, torch.Tensor]

DTYPES: Final[dict[torch.dtype, Dtype]] = {
    torch.float32: "float32",
    torch.int64: "int64",
    torch.bool: "bool",
}

_RESERVED: Final = {
    "parameters",
    "target",
    "weight",
    "random",
    "learning_rate",
    "clip_norm",
    "loss",
    optimizers.ANCHOR,
    optimizers.VELOCITY,
    optimizers.FIRST_MOMENT,
    optimizers.SECOND_MOMENT,
    optimizers.BIAS_CORRECTION,
}


@dataclass(frozen=True)
class TrainingProblem:
    """A checked copy of what the modeller gave; nothing here aliases the modeller's own model.

    Attributes
    ----------
    model : torch.nn.Module
        Copy of the model in the mode in which it was given (train or eval, per sub-module).
    evaluation_model : torch.nn.Module
        Copy in eval mode.
    loss : callable
        The modeller's loss.
    inputs : dict of str to Tensor
        Example inputs by the names of ``forward``'s parameters.
    target : Tensor
        Example target.
    output_names : tuple of str
        Names of the model's outputs, in order.
    spec : ModelSpec
        The interface that goes into the plan.
    training : TrainingSpec
        The optimizer and the clipping that the training step has.
    rounding : float
        Largest difference of a parameter from the modeller's own, by how the plan stores parameters.
    """

    model: nn.Module
    evaluation_model: nn.Module
    loss: Loss
    inputs: dict[str, torch.Tensor]
    target: torch.Tensor
    output_names: tuple[str, ...]
    spec: ModelSpec
    training: TrainingSpec = field(default_factory=TrainingSpec)
    rounding: float = 0.0

    @property
    def batch_size(self) -> int:
        """Rows of the example batch."""
        return self.spec.batch_size

    def initial_parameters(self) -> torch.Tensor:
        """Return the trainable parameters as one flat vector, shape (P,)."""
        return torch.cat([p.detach().reshape(-1) for _, p in trainable_parameters(self.model)])


def trainable_parameters(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """Return what training changes, in ``named_parameters()`` order (tied weights once).

    Frozen parameters are not among them: like buffers they become constants of the graphs, for a
    parameter that is reported would also be noised.
    """
    return [(name, p) for name, p in model.named_parameters() if p.requires_grad]


def unflatten(vector: torch.Tensor, spec: ModelSpec) -> dict[str, torch.Tensor]:
    """Cut a flat vector into named tensors."""
    sizes = [_size(p.shape) for p in spec.parameters]
    with scope("parameters"):
        pieces = torch.split(vector, sizes)
    tensors = {}
    for parameter, piece in zip(spec.parameters, pieces, strict=True):
        with scope(parameter.name):
            tensors[parameter.name] = piece.view(parameter.shape)
    return tensors


def flatten_outputs(outputs: object) -> dict[str, torch.Tensor]:
    """Name what ``forward`` returned: ``output``, ``output_0`` and so on, or the keys of a mapping.

    Raises
    ------
    ExportError
        If something in it is not a tensor.
    """
    if isinstance(outputs, torch.Tensor):
        return {"output": outputs}
    named: dict[str, object]
    if isinstance(outputs, Mapping):
        named = {str(key): value for key, value in outputs.items()}
    elif isinstance(outputs, tuple) and hasattr(outputs, "_fields"):
        named = dict(zip(outputs._fields, outputs, strict=True))
    elif isinstance(outputs, (tuple, list)):
        named = {f"output_{i}": value for i, value in enumerate(outputs)}
    else:
        raise ExportError(
            f"forward returned {type(outputs).__name__}; return a tensor, or a tuple or dict of tensors"
        )
    result: dict[str, torch.Tensor] = {}
    for name, value in named.items():
        if not isinstance(value, torch.Tensor):
            raise ExportError(
                f"forward's output {name!r} is {type(value).__name__}; return tensors only"
            )
        result[name] = value
    if not result:
        raise ExportError("forward returned nothing; return at least one tensor")
    return result


def make_problem(
    model: nn.Module,
    loss: Loss,
    example_inputs: ExampleInputs,
    example_target: torch.Tensor,
    training: TrainingSpec | None = None,
    *,
    storage: Storage = "float32",
) -> TrainingProblem:
    """Check a model with one example batch and give everything its name.

    Parameters
    ----------
    model : torch.nn.Module
        In the mode in which it is to be trained; it is copied, never changed.
    loss : callable
        ``loss(outputs, target)``, a mean over the examples.
    example_inputs : Tensor, sequence or mapping of Tensor
        One batch; the first axis is the batch axis.
    example_target : Tensor
        Its targets.
    training : TrainingSpec, optional
        How devices train: plain SGD by default.
    storage : {"float32", "float16"}
        How parameters are kept and downloaded; the problem's models have them as they are read again.

    Returns
    -------
    TrainingProblem

    Raises
    ------
    ExportError
        Naming what is wrong with the arguments.
    UnsupportedModelError
        If the model holds state besides its parameters, or draws random numbers.
    """
    if not isinstance(model, nn.Module):
        raise ExportError(f"model is {type(model).__name__}; it must be a torch.nn.Module")
    if not callable(loss):
        raise ExportError(
            f"loss is {type(loss).__name__}; it must be callable: loss(outputs, target)"
        )
    if isinstance(loss, nn.Module) and any(p.requires_grad for p in loss.parameters()):
        raise ExportError(
            "the loss has parameters of its own; devices train the model's: move them into the "
            "model, or freeze them with requires_grad_(False)"
        )
    if not isinstance(example_target, torch.Tensor):
        raise ExportError(f"the example target is {type(example_target).__name__}, not a tensor")
    inputs = _name_inputs(model, example_inputs)
    rows = _check_rows(inputs, example_target)
    try:
        ours = copy.deepcopy(model)
        evaluation_model = copy.deepcopy(model).eval()
    except Exception as error:
        raise ExportError(
            f"the model cannot be copied ({error}); keep parameters, buffers and plain values in it"
        ) from error
    parameters = _parameter_specs(ours)
    rounding = max(_store(each, storage) for each in (ours, evaluation_model))
    refuse_stateful_modules(ours)
    outputs, random = _run(ours, evaluation_model, inputs, rows)
    for name, value in outputs.items():
        if value.dim() == 0 or value.shape[0] != rows:
            raise ExportError(
                f"forward's output {name!r} has shape {tuple(value.shape)}; its first axis must be the "
                f"batch axis ({rows} rows)"
            )
    try:
        spec = ModelSpec(
            parameters=parameters,
            inputs=tuple(_tensor_spec(name, value) for name, value in inputs.items()),
            target=_tensor_spec("target", example_target),
            outputs=tuple(_tensor_spec(name, value) for name, value in outputs.items()),
            batch_size=rows,
            random_numbers=random or None,
            storage=None if storage == "float32" else storage,
        )
    except ValueError as error:
        raise ExportError(str(error)) from None
    return TrainingProblem(
        model=ours,
        evaluation_model=evaluation_model,
        loss=loss,
        inputs={name: value.detach().clone() for name, value in inputs.items()},
        target=example_target.detach().clone(),
        output_names=tuple(outputs),
        spec=spec,
        training=training or TrainingSpec(),
        rounding=rounding,
    )


def _store(model: nn.Module, storage: Storage) -> float:
    """Round a model's parameters in place as storing does; return the largest difference it made."""
    difference = 0.0
    for name, parameter in trainable_parameters(model):
        values = parameter.detach()
        stored = torch.from_numpy(as_stored(values.numpy(), storage))
        if not bool(torch.isfinite(stored).all()):
            raise ExportError(
                f"parameter {name!r} holds {float(values.abs().max()):g}, and the largest {storage} is "
                f"{LARGEST:g}: scale what the layer reads or makes, or store float32"
            )
        if values.numel():
            difference = max(difference, float((stored - values).abs().max()))
        values.copy_(stored)
    return difference


def _run(
    model: nn.Module,
    evaluation_model: nn.Module,
    inputs: Mapping[str, torch.Tensor],
    rows: int,
) -> tuple[dict[str, torch.Tensor], int]:
    """Return the outputs, and how many random numbers a row needs in train mode."""
    arguments = {name: value.detach().clone() for name, value in inputs.items()}
    with torch.no_grad(), refuse_changed_buffers(model):
        try:
            with random_numbers(rows) as numbers:
                model(**arguments)
            with random_numbers(rows) as numbers_of_evaluation:
                outputs = evaluation_model(**arguments)
        except ExportError:
            raise
        except Exception as error:
            raise ExportError(f"forward fails on the example inputs: {error}") from error
    if numbers_of_evaluation.taken:
        raise UnsupportedModelError(
            operator="random numbers in eval mode",
            rewrite="use torch.nn.Dropout, or torch.nn.functional.dropout(x, p, self.training)",
            reason="evaluation and prediction take no random numbers",
        )
    return flatten_outputs(outputs), numbers.taken


def _name_inputs(model: nn.Module, example_inputs: ExampleInputs) -> dict[str, torch.Tensor]:
    signature = inspect.signature(model.forward)
    named = {
        name: parameter
        for name, parameter in signature.parameters.items()
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    }
    if len(named) != len(signature.parameters):
        raise ExportError(
            f"forward{signature} takes arguments without names; name each input of the model"
        )
    if isinstance(example_inputs, torch.Tensor):
        example_inputs = (example_inputs,)
    if isinstance(example_inputs, Mapping):
        result = dict(example_inputs)
        unknown = sorted(set(result) - set(named))
        if unknown:
            raise ExportError(f"forward{signature} has no parameter {unknown[0]!r}")
    else:
        given = tuple(example_inputs)
        positional = [n for n, p in named.items() if p.kind is p.POSITIONAL_OR_KEYWORD]
        if len(given) > len(positional):
            raise ExportError(f"{len(given)} example inputs for forward{signature}")
        result = dict(zip(positional, given, strict=False))
    for name, parameter in named.items():
        if name not in result and parameter.default is parameter.empty:
            raise ExportError(f"the example inputs lack forward's parameter {name!r}")
    for name, value in result.items():
        if not isinstance(value, torch.Tensor):
            raise ExportError(f"example input {name!r} is {type(value).__name__}, not a tensor")
        if name in _RESERVED:
            raise ExportError(
                f"forward's parameter {name!r} has a name that the graphs use themselves; rename it"
            )
    if not result:
        raise ExportError("a model needs at least one example input")
    # The order of forward, whatever the order of the mapping.
    return {name: result[name] for name in named if name in result}


def _check_rows(inputs: Mapping[str, torch.Tensor], target: torch.Tensor) -> int:
    rows = {}
    for name, value in {**inputs, "target": target}.items():
        if value.dim() == 0:
            raise ExportError(
                f"example {name!r} is a scalar; its first axis must be the batch axis"
            )
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise ExportError(f"example {name!r} holds values that are not finite")
        rows[name] = value.shape[0]
    if len(set(rows.values())) != 1 or 0 in rows.values():
        raise ExportError(f"the example batch needs one number of rows of at least 1, got {rows}")
    return rows["target"]


def _parameter_specs(model: nn.Module) -> tuple[ParameterSpec, ...]:
    specs, offset = [], 0
    for name, parameter in trainable_parameters(model):
        if parameter.dtype != torch.float32:
            raise ExportError(
                f"parameter {name!r} is {parameter.dtype}; devices train float32: call model.float()"
            )
        if parameter.device.type != "cpu":
            raise ExportError(f"parameter {name!r} is on {parameter.device}; call model.cpu()")
        if not bool(torch.isfinite(parameter).all()):
            raise ExportError(f"parameter {name!r} holds values that are not finite")
        specs.append(ParameterSpec(name=name, shape=tuple(parameter.shape), offset=offset))
        offset += parameter.numel()
    if not specs:
        raise ExportError(
            "the model has no parameter with requires_grad: there is nothing to train"
        )
    return tuple(specs)


def _tensor_spec(name: str, value: torch.Tensor) -> TensorSpec:
    if value.dtype not in DTYPES:
        allowed = ", ".join(str(dtype) for dtype in DTYPES)
        raise ExportError(f"{name!r} is {value.dtype}; devices take {allowed}: convert it")
    try:
        return TensorSpec(name=name, dtype=DTYPES[value.dtype], shape=tuple(value.shape[1:]))
    except ValueError as error:
        raise ExportError(str(error)) from None


def _size(shape: Sequence[int]) -> int:
    return torch.Size(shape).numel()
