"""Reads a model that is a chain of dense layers: what its layers are, and between which functions."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial, reduce
from typing import Any, Final

import torch
from torch import fx, nn
from torch.nn import functional

from pocketfl.plan.models import ModelSpec
from pocketfl_export.problem import TrainingProblem

Function = Callable[[torch.Tensor], torch.Tensor]
Slope = Callable[[torch.Tensor], torch.Tensor]

_RELU: Final[tuple[Function, Slope]] = (torch.relu, lambda active: (active > 0).to(active.dtype))
_TANH: Final[tuple[Function, Slope]] = (torch.tanh, lambda active: 1 - active * active)
_SIGMOID: Final[tuple[Function, Slope]] = (torch.sigmoid, lambda active: active * (1 - active))
_ACTIVATIONS: Final[dict[Any, tuple[Function, Slope]]] = {
    **dict.fromkeys((nn.ReLU, torch.relu, functional.relu, "relu"), _RELU),
    **dict.fromkeys((nn.Tanh, torch.tanh, functional.tanh, "tanh"), _TANH),
    **dict.fromkeys((nn.Sigmoid, torch.sigmoid, functional.sigmoid, "sigmoid"), _SIGMOID),
}
"""Activations and their slopes, as functions of what the activation returned."""


@dataclass(frozen=True, kw_only=True)
class DenseLayer:
    """A linear map, and the activation before it.

    Attributes
    ----------
    weight, bias : int or None
        Numbers of its parameters in the plan's order; a layer may have no bias.
    activation : callable or None
        Of what comes in; None for the first layer.
    slope : callable or None
        Of that activation, as a function of its result.
    """

    weight: int
    bias: int | None
    activation: Function | None = None
    slope: Slope | None = None


@dataclass(frozen=True, kw_only=True)
class DenseChain:
    """All of a model's layers.

    Attributes
    ----------
    input : str
        Name of the model's only input.
    layers : tuple of DenseLayer
        In order.
    tail : callable
        Takes what the last layer returns, shape (rows, width), and returns the model's output.
    """

    input: str
    layers: tuple[DenseLayer, ...]
    tail: Function


def read_chain(problem: TrainingProblem) -> DenseChain | None:
    """Return a model's layers; None where it is no chain of dense layers that train.

    Parameters
    ----------
    problem : TrainingProblem
        With the model.
    """
    spec = problem.spec
    if len(spec.inputs) != 1 or len(spec.inputs[0].shape) != 1 or spec.random_numbers:
        return None
    if len(spec.outputs) != 1 or spec.inputs[0].dtype != "float32":
        return None
    try:
        traced = fx.symbolic_trace(problem.model)
    except Exception:  # Whatever it does that cannot be traced, it is no such chain.
        return None
    return _Reader(traced, spec).read()


class _Reader:
    """Follows one value through a traced model."""

    def __init__(self, traced: fx.GraphModule, spec: ModelSpec) -> None:
        self._modules = dict(traced.named_modules())
        self._nodes = list(traced.graph.nodes)
        self._numbers = {parameter.name: n for n, parameter in enumerate(spec.parameters)}
        self._input = spec.inputs[0].name

    def read(self) -> DenseChain | None:
        """Return the chain, if it is one of which every parameter is known."""
        layers: list[DenseLayer] = []
        pending: tuple[Function, Slope] | None = None
        tail: list[Function] = []
        for before, node in itertools.pairwise(self._nodes):
            # Each value goes to the next operator, and to nobody else.
            if node.all_input_nodes != [before] or len(before.users) != 1:
                return None
            if node.op == "output":
                break
            numbers = self._parameters(node)
            if numbers is not None:
                if bool(layers) != (pending is not None):
                    return None
                activation, slope = pending or (None, None)
                weight, bias = numbers
                layers.append(
                    DenseLayer(weight=weight, bias=bias, activation=activation, slope=slope)
                )
                pending, tail = None, []
                continue
            activated = self._activation(node)
            function = self._shaping(node) if activated is None else activated[0]
            if function is None or not layers:
                return None
            pending = None if tail else activated
            tail.append(function)
        used = [n for layer in layers for n in (layer.weight, layer.bias) if n is not None]
        if not layers or sorted(used) != list(range(len(self._numbers))):
            return None  # Some are frozen, shared, or used by nobody.
        return DenseChain(
            input=self._input,
            layers=tuple(layers),
            tail=partial(reduce, lambda values, function: function(values), tail),
        )

    def _parameters(self, node: fx.Node) -> tuple[int, int | None] | None:
        """Return the numbers of a dense layer's weight and bias."""
        module = self._modules.get(str(node.target)) if node.op == "call_module" else None
        if type(module) is not nn.Linear or f"{node.target}.weight" not in self._numbers:
            return None
        weight = self._numbers[f"{node.target}.weight"]
        if module.bias is None:
            return weight, None
        bias = self._numbers.get(f"{node.target}.bias")
        return None if bias is None else (weight, bias)

    def _activation(self, node: fx.Node) -> tuple[Function, Slope] | None:
        if len(node.args) != 1 or set(node.kwargs) - {"inplace"}:
            return None
        target: Any = node.target
        if node.op == "call_module":
            target = type(self._modules[str(node.target)])
        return _ACTIVATIONS.get(target)

    def _shaping(self, node: fx.Node) -> Function | None:
        """Return a function that drops an axis of length 1 behind the rows."""
        if node.op == "call_module":
            module = self._modules[str(node.target)]
            return module if type(module) in (nn.Flatten, nn.Identity) else None
        name = node.target if node.op == "call_method" else getattr(node.target, "__name__", "")
        arguments, named = node.args[1:], dict(node.kwargs)
        if name not in ("squeeze", "flatten") or not (arguments or named):
            return None
        return lambda values: getattr(values, str(name))(*arguments, **named)
