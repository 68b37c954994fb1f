"""An ONNX graph under construction: names, constants, and nodes that are made only once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import ArrayLike, NDArray
from onnx import helper, numpy_helper

ONNX_TYPES = {
    torch.float32: onnx.TensorProto.FLOAT,
    torch.float64: onnx.TensorProto.DOUBLE,
    torch.float16: onnx.TensorProto.FLOAT16,
    torch.int64: onnx.TensorProto.INT64,
    torch.int32: onnx.TensorProto.INT32,
    torch.int8: onnx.TensorProto.INT8,
    torch.uint8: onnx.TensorProto.UINT8,
    torch.bool: onnx.TensorProto.BOOL,
}
NUMPY_TYPES: dict[torch.dtype, type[np.generic]] = {
    torch.float32: np.float32,
    torch.float64: np.float64,
    torch.float16: np.float16,
    torch.int64: np.int64,
    torch.int32: np.int32,
    torch.int8: np.int8,
    torch.uint8: np.uint8,
    torch.bool: np.bool_,
}


class GraphBuilder:
    """Collects nodes and initialisers; equal ones are made once.

    Parameters
    ----------
    reserved : iterable of str
        Names of the graph's inputs and outputs, which nothing else may take.
    """

    def __init__(self, reserved: Iterable[str]) -> None:
        self._nodes: list[onnx.NodeProto] = []
        self._initializers: list[onnx.TensorProto] = []
        self._constants: dict[tuple[str, tuple[int, ...], bytes], str] = {}
        self._made: dict[tuple[object, ...], tuple[str, ...]] = {}
        self._taken = set(reserved)
        self._counters: dict[str, int] = {}
        self.scope = ""
        """What the nodes made next belong to, such as ``layers.0.grad``; a node and its value are
        called after it and the operator."""

    def constant(self, value: ArrayLike, dtype: torch.dtype | None = None) -> str:
        """Return the name of a constant tensor."""
        array: NDArray[Any] = np.array(value, NUMPY_TYPES[dtype] if dtype else None, order="C")
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._constants:
            name = self._unique("const")
            self._initializers.append(numpy_helper.from_array(array, name))
            self._constants[key] = name
        return self._constants[key]

    def integers(self, values: Iterable[int]) -> str:
        """Return the name of a constant int64 vector: a shape, axes, positions."""
        return self.constant(np.array([int(v) for v in values], np.int64))

    def add(self, operator: str, *inputs: str | None, **attributes: Any) -> str:
        """Add a node with one output and return the output's name."""
        return self.add_several(operator, *inputs, outputs=1, **attributes)[0]

    def add_several(
        self, operator: str, *inputs: str | None, outputs: int, **attributes: Any
    ) -> tuple[str, ...]:
        """Add a node and return the names of its outputs."""
        names = ["" if name is None else name for name in inputs]
        while names and not names[-1]:
            names.pop()
        key = (operator, tuple(names), outputs, repr(sorted(attributes.items())))
        if key not in self._made:
            # Old releases of ONNX Runtime refuse fused graphs whose nodes have no names of their own.
            name = self._unique(f"{self.scope}/{operator}" if self.scope else operator)
            made = (name, *(f"{name}:{number}" for number in range(1, outputs)))
            self._nodes.append(helper.make_node(operator, names, made, name=name, **attributes))
            self._made[key] = made
        return self._made[key]

    def filled(self, shape: Sequence[int], value: float, dtype: torch.dtype) -> str:
        """Return a tensor filled with one number; a scalar becomes a constant."""
        if not shape:
            return self.constant(value, dtype)
        fill = numpy_helper.from_array(np.array([value], NUMPY_TYPES[dtype]), "value")
        return self.add("ConstantOfShape", self.integers(shape), value=fill)

    def finish(
        self,
        name: str,
        *,
        inputs: Sequence[onnx.ValueInfoProto],
        outputs: Sequence[onnx.ValueInfoProto],
        values: Sequence[str],
    ) -> onnx.GraphProto:
        """Name the outputs, drop what nothing needs, and return the graph.

        Parameters
        ----------
        inputs, outputs : sequence of ValueInfoProto
            The graph's interface.
        values : sequence of str
            The values that become the outputs, in order.
        """
        self._name_outputs([output.name for output in outputs], values)
        needed = {output.name for output in outputs}
        kept = []
        for node in reversed(self._nodes):
            if any(output in needed for output in node.output):
                kept.append(node)
                needed.update(node.input)
        kept.reverse()
        self._shorten_inner_values(kept, needed={output.name for output in outputs})
        initializers = [tensor for tensor in self._initializers if tensor.name in needed]
        return helper.make_graph(kept, name, inputs, outputs, initializer=initializers)

    def _shorten_inner_values(self, nodes: Sequence[onnx.NodeProto], *, needed: set[str]) -> None:
        """Leave the module out of names of values that never leave it: a third of a large graph."""
        readers: dict[str, set[str]] = {}
        for node in nodes:
            for name in node.input:
                readers.setdefault(name, set()).add(_scope_of(node))
        short: dict[str, str] = {}
        for node in nodes:
            scope = _scope_of(node)
            for name in node.output:
                if name not in needed and scope and readers.get(name) == {scope}:
                    short[name] = self._unique(name.removeprefix(f"{scope}/").partition(".")[0])
        for node in nodes:
            node.input[:] = [short.get(name, name) for name in node.input]
            node.output[:] = [short.get(name, name) for name in node.output]

    def _name_outputs(self, names: Sequence[str], values: Sequence[str]) -> None:
        made = {output for node in self._nodes for output in node.output}
        renamed: dict[str, str] = {}
        copies = []
        for name, value in zip(names, values, strict=True):
            if value in made and value not in renamed:
                renamed[value] = name
            else:  # An input or a constant handed through, or a value returned twice.
                copies.append((renamed.get(value, value), name))
        for node in self._nodes:
            node.input[:] = [renamed.get(n, n) for n in node.input]
            node.output[:] = [renamed.get(n, n) for n in node.output]
        for value, name in copies:
            node_name = self._unique("Identity")
            self._nodes.append(helper.make_node("Identity", [value], [name], name=node_name))

    def _unique(self, base: str) -> str:
        number = self._counters.get(base, 0)
        name = base if number == 0 else f"{base}.{number}"
        self._counters[base] = number + 1
        if name in self._taken:
            return self._unique(base)
        self._taken.add(name)
        return name


def _scope_of(node: onnx.NodeProto) -> str:
    return str(node.name).rpartition("/")[0]
