"""Passes over an ATen graph that change its size, never its meaning.

Tracing a backward pass leaves many nodes that do nothing: aliases, tensors filled with one number
that are multiplied or added, casts to the same type. On a phone each is a kernel launch, and an
exporter that folds a filled tensor writes megabytes of zeros.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np
import torch
from torch import fx

from pocketfl_export.joining import join_sums, skip_padding
from pocketfl_export.scopes import SCOPE

aten = torch.ops.aten

_NO_OPS: Final = frozenset(
    {
        aten.alias.default,
        aten.clone.default,
        aten.detach.default,
        aten.lift_fresh.default,
        aten.lift_fresh_copy.default,
        aten.contiguous.default,
    }
)

_FILLS: Final[dict[Any, Callable[[fx.Node], Any]]] = {
    aten.full.default: lambda n: n.args[1],
    aten.full_like.default: lambda n: n.args[1],
    aten.new_full.default: lambda n: n.args[2],
    aten.scalar_tensor.default: lambda n: n.args[0],
    aten.zeros.default: lambda n: 0,
    aten.zeros_like.default: lambda n: 0,
    aten.new_zeros.default: lambda n: 0,
    aten.ones.default: lambda n: 1,
    aten.ones_like.default: lambda n: 1,
    aten.new_ones.default: lambda n: 1,
    # Uninitialised memory that is read has no meaning; zeros are one legal content of it.
    aten.empty.memory_format: lambda n: 0,
    aten.empty_like.default: lambda n: 0,
    aten.empty_permuted.default: lambda n: 0,
    aten.new_empty.default: lambda n: 0,
    aten.empty_strided.default: lambda n: 0,
    aten.new_empty_strided.default: lambda n: 0,
}

_MOVES: Final = frozenset(
    {
        aten.expand.default,
        aten.view.default,
        aten._unsafe_view.default,
        aten.reshape.default,
        aten.unsqueeze.default,
        aten.squeeze.dim,
        aten.squeeze.dims,
        aten.permute.default,
        aten.t.default,
        aten.transpose.int,
        aten.slice.Tensor,
        aten.select.int,
    }
)
"""Operators that only move elements: of a filled tensor they make a filled tensor."""

_COMPARISONS: Final = frozenset(
    {
        aten.eq.Tensor,
        aten.ne.Tensor,
        aten.gt.Tensor,
        aten.lt.Tensor,
        aten.ge.Tensor,
        aten.le.Tensor,
    }
)
_ELEMENTWISE: Final = (
    frozenset(
        {
            aten.mul.Tensor,
            aten.add.Tensor,
            aten.sub.Tensor,
            aten.div.Tensor,
            aten.maximum.default,
            aten.minimum.default,
            aten.where.self,
        }
    )
    | _COMPARISONS
)


def simplify(graph_module: fx.GraphModule) -> fx.GraphModule:
    """Simplify a traced graph in place, and strip where it came from but for the module's name.

    Stack traces in a graph's metadata hold paths of the modeller's machine.
    """
    graph = graph_module.graph
    _remove_dead_code(graph)
    remove_no_ops(graph)
    fold_constants(graph_module)
    skip_padding(graph)
    fold_filled_tensors(graph)
    remove_neutral_operations(graph)
    sum_what_was_scattered(graph)
    for _ in range(2):  # Each of these makes work for the others.
        merge_moves(graph)
        share_common_nodes(graph)
    _remove_dead_code(graph)  # What nothing uses would count as a use.
    subtract_negatives(graph)
    join_sums(graph)
    share_common_nodes(graph)
    remove_expansions(graph)
    _remove_dead_code(graph)
    for node in graph.nodes:
        node.meta = {
            key: value for key, value in node.meta.items() if key in ("val", "tensor_meta", SCOPE)
        }
    graph_module.meta.clear()
    graph_module.recompile()
    return graph_module


def _remove_dead_code(graph: fx.Graph) -> None:
    graph.eliminate_dead_code(is_impure_node=_is_placeholder)


def _is_placeholder(node: fx.Node) -> bool:
    return node.op in ("placeholder", "output")


def remove_no_ops(graph: fx.Graph) -> None:
    """Take out copies, and views and casts to what a tensor is already.

    A view of what was a copy may now be one of a permuted tensor, which only ``reshape`` accepts.
    """
    for node in list(graph.nodes):
        if node.op != "call_function" or not node.args or not isinstance(node.args[0], fx.Node):
            continue
        if node.target in (aten.view.default, aten._unsafe_view.default):
            node.target = aten.reshape.default
        source = node.args[0]
        if node.target in _NO_OPS or _keeps_everything(node, source):
            node.replace_all_uses_with(source)
            graph.erase_node(node)


def _keeps_everything(node: fx.Node, source: fx.Node) -> bool:
    before, after = source.meta.get("val"), node.meta.get("val")
    if not isinstance(before, torch.Tensor) or not isinstance(after, torch.Tensor):
        return False
    if before.shape != after.shape or before.dtype != after.dtype:
        return False
    return node.target in (
        aten.view.default,
        aten._unsafe_view.default,
        aten.reshape.default,
        aten.expand.default,
        aten.slice.Tensor,
        aten._to_copy.default,
        torch.ops.prims.convert_element_type.default,
    ) or (
        node.target is aten.permute.default and list(node.args[1]) == list(range(before.dim()))  # type: ignore[arg-type]
    )


def filled_with(node: object) -> float | int | bool | None:
    """Return the number that every element of this tensor has, or None if that is not known."""
    while isinstance(node, fx.Node) and node.op == "call_function":
        if node.target in _FILLS:
            value = _FILLS[node.target](node)
            return value if isinstance(value, (int, float, bool)) else None
        if node.target not in _MOVES:
            return None
        node = node.args[0]
    return None


def fold_filled_tensors(graph: fx.Graph) -> None:
    """Replace a filled operand of an element-wise operator by a scalar tensor."""
    for node in list(graph.nodes):
        if node.op != "call_function":
            continue
        if node.target in _ELEMENTWISE:
            _fold_operands(graph, node)
        elif node.target in (
            aten.empty.memory_format,
            aten.empty_like.default,
            aten.empty_permuted.default,
            aten.new_empty.default,
            aten.empty_strided.default,
            aten.new_empty_strided.default,
        ):
            value = node.meta["val"]
            with graph.inserting_before(node):
                zeros = graph.call_function(
                    aten.full.default, (list(value.shape), 0), {"dtype": value.dtype}
                )
            zeros.meta["val"] = value
            node.replace_all_uses_with(zeros)


def _fold_operands(graph: fx.Graph, node: fx.Node) -> None:
    shape = node.meta["val"].shape
    arguments = list(node.args)
    for index, argument in enumerate(arguments):
        if not isinstance(argument, fx.Node) or argument.meta["val"].dim() == 0:
            continue
        value = filled_with(argument)
        if value is None:
            continue
        others = [
            other
            for i, other in enumerate(arguments)
            if i != index and isinstance(other, fx.Node) and other.meta["val"].shape == shape
        ]
        if not others:
            continue
        dtype = argument.meta["val"].dtype
        with graph.inserting_before(node):
            scalar = graph.call_function(aten.scalar_tensor.default, (value,), {"dtype": dtype})
        scalar.meta["val"] = argument.meta["val"].new_empty((), dtype=dtype)
        arguments[index] = scalar
    node.args = tuple(arguments)


_NEUTRAL: Final[dict[Any, tuple[float, bool]]] = {
    aten.mul.Tensor: (1, True),
    aten.mul.Scalar: (1, False),
    aten.div.Tensor: (1, False),
    aten.div.Scalar: (1, False),
    aten.add.Tensor: (0, True),
    aten.add.Scalar: (0, False),
    aten.sub.Tensor: (0, False),
    aten.sub.Scalar: (0, False),
}
"""Operator to (neutral number, whether it is neutral on the left too)."""


def remove_neutral_operations(graph: fx.Graph) -> None:
    """Take out ``x * 1``, ``x / 1``, ``x + 0`` and ``x - 0`` where shape and type stay the same.

    ``x + 0`` turns -0.0 into +0.0; no operator here tells the two apart but division by them.
    """
    for node in list(graph.nodes):
        if node.op != "call_function" or node.target not in _NEUTRAL:
            continue
        neutral, commutes = _NEUTRAL[node.target]
        for index in (1, 0) if commutes else (1,):
            kept, other = node.args[1 - index], node.args[index]
            value = other if isinstance(other, (int, float)) else filled_with(other)
            if value != neutral or not isinstance(kept, fx.Node):
                continue
            before, after = kept.meta["val"], node.meta["val"]
            if before.shape == after.shape and before.dtype == after.dtype:
                node.replace_all_uses_with(kept)
                graph.erase_node(node)
                break


def subtract_negatives(graph: fx.Graph) -> None:
    """Write ``x + -y`` as ``x - y``, where the negative is used nowhere else."""
    for node in list(graph.nodes):
        if node.target is not aten.add.Tensor or node.kwargs:
            continue
        for kept, negative in (node.args, node.args[::-1]):
            if (
                isinstance(kept, fx.Node)
                and isinstance(negative, fx.Node)
                and negative.target is aten.neg.default
                and len(negative.users) == 1
            ):
                node.target, node.args = aten.sub.Tensor, (kept, negative.args[0])
                graph.erase_node(negative)
                break


def sum_what_was_scattered(graph: fx.Graph) -> None:
    """Sum values directly instead of after spreading them over zeros along the same axis.

    The backward pass of a softmax does this with the gradient of picking one class.
    """
    for node in list(graph.nodes):
        if node.target is not aten.sum.dim_IntList or len(node.args) < 2:
            continue
        scattered, axes = node.args[0], _axes(node.args[1])
        if not isinstance(scattered, fx.Node) or scattered.target is not aten.scatter_add.default:
            continue
        zeros, axis, index, source = scattered.args
        if not isinstance(source, fx.Node) or not isinstance(index, fx.Node):
            continue
        wide, narrow = scattered.meta["val"].shape, list(source.meta["val"].shape)
        along = _axes(axis)[0] % len(wide)
        if filled_with(zeros) != 0 or [a % len(wide) for a in axes] != [along]:
            continue
        # Only if the values cover the other axes has each of their sums its place.
        covered = all(wide[d] == narrow[d] for d in range(len(wide)) if d != along)
        if covered and list(index.meta["val"].shape) == narrow:
            node.args = (source, *node.args[1:])


def _axes(argument: object) -> list[int]:
    listed = argument if isinstance(argument, (list, tuple)) else [argument]
    return [axis for axis in listed if isinstance(axis, int)]


def fold_constants(graph_module: fx.GraphModule) -> None:
    """Compute what depends on no input, where the result is small.

    Tensors filled with one number stay what they are: a fill is shorter than its result.
    """
    graph = graph_module.graph
    known: dict[fx.Node, torch.Tensor] = {}
    for node in list(graph.nodes):
        if node.op == "get_attr":
            value = getattr(graph_module, str(node.target), None)
            if isinstance(value, torch.Tensor):
                known[node] = value.detach()
            continue
        if node.op != "call_function" or not isinstance(node.meta.get("val"), torch.Tensor):
            continue
        if node.target in _FILLS or node.meta["val"].numel() > FOLDING_LIMIT:
            continue
        if not all(source in known for source in node.all_input_nodes):
            continue
        if filled_with(node) is not None:
            continue
        arguments, keywords = fx.map_arg((node.args, node.kwargs), known.__getitem__)
        result = node.target(*arguments, **keywords)
        name = _attribute_name(graph_module)
        graph_module.register_buffer(name, result.detach().clone().contiguous())
        with graph.inserting_before(node):
            constant = graph.get_attr(name)
        constant.meta["val"] = node.meta["val"]
        known[constant] = result
        node.replace_all_uses_with(constant)
        graph.erase_node(node)


FOLDING_LIMIT: Final = 65_536
"""Most elements of a tensor that :func:`fold_constants` computes."""


def _attribute_name(graph_module: fx.GraphModule) -> str:
    number = 0
    while hasattr(graph_module, f"_folded_{number}"):
        number += 1
    return f"_folded_{number}"


def merge_moves(graph: fx.Graph) -> None:
    """Join permutations and views that follow each other into one, or into none."""
    for node in list(graph.nodes):
        if node.op != "call_function" or not node.args:
            continue
        if node.target is aten.t.default:
            node.target, node.args = aten.permute.default, (node.args[0], [1, 0])
        source = node.args[0]
        if not isinstance(source, fx.Node) or source.op != "call_function":
            continue
        if node.target is aten.permute.default and source.target is aten.permute.default:
            dims = node.meta["val"].dim()
            inner = [int(d) % dims for d in source.args[1]]  # type: ignore[union-attr, arg-type]
            order = [inner[int(d) % dims] for d in node.args[1]]
            if order == list(range(dims)):
                node.replace_all_uses_with(source.args[0])
                graph.erase_node(node)
            else:
                node.args = (source.args[0], order)
        elif node.target in _VIEWS and source.target in _VIEWS:
            origin = source.args[0]
            shape = list(node.meta["val"].shape)
            if isinstance(origin, fx.Node) and list(origin.meta["val"].shape) == shape:
                node.replace_all_uses_with(origin)
                graph.erase_node(node)
            else:
                node.target, node.args, node.kwargs = aten.reshape.default, (origin, shape), {}


_VIEWS: Final = frozenset(
    {
        aten.view.default,
        aten._unsafe_view.default,
        aten.reshape.default,
        aten.unsqueeze.default,
        aten.squeeze.default,
        aten.squeeze.dim,
        aten.squeeze.dims,
    }
)
"""Operators that keep the order of the elements and change the shape alone: one replaces any chain."""


def share_common_nodes(graph: fx.Graph) -> None:
    """Compute once what is computed twice from the same operands."""
    seen: dict[object, fx.Node] = {}
    for node in list(graph.nodes):
        if node.op == "get_attr":
            key: object = ("get_attr", node.target)
        elif node.op == "call_function":
            key = (node.target, _hashable(node.args), _hashable(node.kwargs))
        else:
            continue
        first = seen.setdefault(key, node)
        if first is not node:
            node.replace_all_uses_with(first)
            graph.erase_node(node)


def _hashable(value: object) -> object:
    if isinstance(value, (list, tuple)):
        return tuple(_hashable(item) for item in value)
    if isinstance(value, dict):
        return tuple((key, _hashable(item)) for key, item in sorted(value.items()))
    # 1, 1.0 and True are equal in Python and differ in a graph.
    return value if isinstance(value, fx.Node) else (type(value), value)


def remove_expansions(graph: fx.Graph) -> None:
    """Let element-wise operators broadcast by themselves instead of expanding their operands first."""
    for node in graph.nodes:
        if node.op != "call_function" or node.target not in _ELEMENTWISE:
            continue
        arguments = list(node.args)
        for index, argument in enumerate(arguments):
            if not isinstance(argument, fx.Node) or argument.target is not aten.expand.default:
                continue
            source = argument.args[0]
            if not isinstance(source, fx.Node):
                continue
            others = [
                tuple(a.meta["val"].shape)
                for i, a in enumerate(arguments)
                if i != index and isinstance(a, fx.Node)
            ]
            shape = np.broadcast_shapes(tuple(source.meta["val"].shape), *others)
            if shape == tuple(node.meta["val"].shape):
                arguments[index] = source
        node.args = tuple(arguments)
