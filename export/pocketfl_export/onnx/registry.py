"""Which ATen operator becomes which ONNX nodes: translators register themselves here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch
from torch import fx

from pocketfl_export.onnx.builder import NUMPY_TYPES, ONNX_TYPES, GraphBuilder

Value: TypeAlias = "str | tuple[str | None, ...]"
Translator: TypeAlias = "Callable[[Call], Value]"

TRANSLATORS: dict[Any, Translator] = {}
"""ATen operator to the function that translates a call of it."""


def translates(*operators: Any) -> Callable[[Translator], Translator]:
    """Register a translator for ATen operators."""

    def register(translator: Translator) -> Translator:
        for operator in operators:
            if operator in TRANSLATORS:
                raise ValueError(f"two translators for {operator}")
            TRANSLATORS[operator] = translator
        return translator

    return register


class Untranslatable(Exception):  # noqa: N818 - says what an argument asks for, the emitter names it
    """A call of a known operator has no translation; the message says which argument and why."""


class Call:
    """One call of an ATen operator, its arguments by the names of the operator's schema.

    Parameters
    ----------
    builder : GraphBuilder
        Where nodes go.
    node : fx.Node
        The call.
    values : dict
        ONNX value(s) of every node before this one.
    """

    def __init__(self, builder: GraphBuilder, node: fx.Node, values: dict[fx.Node, Value]) -> None:
        self.builder = builder
        self.node = node
        self._values = values
        schema = node.target._schema  # type: ignore[union-attr]
        self._arguments: dict[str, Any] = {}
        for position, argument in enumerate(schema.arguments):
            if position < len(node.args):
                self._arguments[argument.name] = node.args[position]
            elif argument.name in node.kwargs:
                self._arguments[argument.name] = node.kwargs[argument.name]
            else:
                self._arguments[argument.name] = argument.default_value

    @property
    def overload(self) -> str:
        """The operator's name without namespace and overload: ``add``."""
        return str(self.node.target._schema.name).split("::")[1]  # type: ignore[union-attr]

    @property
    def shape(self) -> list[int]:
        """Shape of the (first) result."""
        return [int(n) for n in self._result.shape]

    @property
    def dtype(self) -> torch.dtype:
        """Type of the (first) result."""
        return self._result.dtype

    @property
    def _result(self) -> torch.Tensor:
        value = self.node.meta["val"]
        result: torch.Tensor = value if isinstance(value, torch.Tensor) else value[0]
        return result

    def argument(self, name: str) -> Any:
        """Return an argument as the graph has it: a node, a number, a list, None."""
        return self._arguments[name]

    def has(self, name: str) -> bool:
        """Return whether a (tensor) argument was given."""
        return self._arguments.get(name) is not None

    def tensor(self, name: str) -> torch.Tensor:
        """Return shape and type of a tensor argument."""
        value: torch.Tensor = self._arguments[name].meta["val"]
        return value

    def shape_of(self, name: str) -> list[int]:
        """Return the shape of a tensor argument."""
        return [int(n) for n in self.tensor(name).shape]

    def input(self, name: str, dtype: torch.dtype | None = None) -> str:
        """Return the ONNX value of an argument, cast if it has another type; a number is a constant."""
        return self.value(self._arguments[name], dtype)

    def optional(self, name: str, dtype: torch.dtype | None = None) -> str | None:
        """Return the ONNX value of an argument that may be None."""
        return self.input(name, dtype) if self.has(name) else None

    def value(self, argument: Any, dtype: torch.dtype | None = None) -> str:
        """Return the ONNX value of a node or number."""
        if not isinstance(argument, fx.Node):
            return self.builder.constant(argument, dtype or self.dtype)
        name = self._values[argument]
        if not isinstance(name, str):
            raise TypeError(f"{argument} has several results")
        if dtype is not None and argument.meta["val"].dtype != dtype:
            return self.cast(name, dtype)
        return name

    def cast(self, name: str, dtype: torch.dtype) -> str:
        """Convert a value to another type."""
        return self.builder.add("Cast", name, to=ONNX_TYPES[dtype])

    def add(self, operator: str, *inputs: str | None, **attributes: Any) -> str:
        """Add an ONNX node with one output."""
        return self.builder.add(operator, *inputs, **attributes)

    def scalar(self, value: float, dtype: torch.dtype | None = None) -> str:
        """Return a scalar constant."""
        return self.builder.constant(value, dtype or self.dtype)

    def reshape(self, name: str, shape: Sequence[int]) -> str:
        """Change the shape of a value."""
        return self.builder.add("Reshape", name, self.builder.integers(shape))

    def axis(self, name: str, rank: int) -> int:
        """Return an axis argument counted from the front."""
        axis = int(self._arguments[name])
        return axis % rank if rank else 0

    def axes(self, name: str, rank: int) -> list[int]:
        """Return an axes argument counted from the front and sorted; none given means all."""
        given = self._arguments[name]
        if given is None or (isinstance(given, (list, tuple)) and not given):
            return list(range(rank))
        listed = given if isinstance(given, (list, tuple)) else [given]
        return sorted(int(axis) % rank for axis in listed) if rank else []


__all__ = [
    "NUMPY_TYPES",
    "ONNX_TYPES",
    "TRANSLATORS",
    "Call",
    "Untranslatable",
    "Value",
    "translates",
]
