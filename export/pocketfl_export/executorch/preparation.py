"""Passes over a traced graph before ExecuTorch's compiler sees it: fewer and better-suited nodes.

Every pass keeps what the graph computes. They work on a copy, for the traced graph is also what a
difference is traced back to.
"""

from __future__ import annotations

from typing import Any, Final, cast

import torch
from torch import fx

aten = torch.ops.aten


def prepare(graph_module: fx.GraphModule) -> fx.GraphModule:
    """Return a copy of a traced graph, rewritten for ExecuTorch."""
    graph = fx.Graph()
    graph.output(graph.graph_copy(graph_module.graph, {}))
    split_into_slices(graph)
    merge_equal_nodes(graph)
    sink_permutations(graph)
    merge_equal_nodes(graph)
    multiply_by_ones_instead_of_summing(graph)
    take_floats_for_integers(graph)
    leave_to_the_delegate(graph)
    _remove_unused(graph)
    graph.lint()
    return fx.GraphModule(graph_module, graph)


def take_bytes_for_booleans(graph_module: fx.GraphModule) -> fx.GraphModule:
    """Make each boolean input a byte that is 0 or not, in place.

    ExecuTorch's library for Android has tensors of bytes, and none of booleans.
    """
    graph = graph_module.graph
    for node in list(graph.nodes):
        if node.op != "placeholder" or node.meta["val"].dtype != torch.bool:
            continue
        with graph.inserting_after(node):
            boolean = graph.call_function(aten.ne.Scalar, (node, 0))
        node.replace_all_uses_with(boolean, delete_user_cb=lambda user, b=boolean: user is not b)
        boolean.meta["val"] = node.meta["val"]
        node.meta["val"] = node.meta["val"].to(torch.uint8)
    graph_module.recompile()
    return graph_module


def split_into_slices(graph: fx.Graph) -> None:
    """Write ``split_with_sizes`` as slices, which XNNPACK has.

    ExecuTorch's verifier walks through a split tensor number by number: minutes for a small model.
    """
    for node in list(graph.nodes):
        if node.target is not aten.split_with_sizes.default:
            continue
        source, sizes = node.args[:2]
        axis = node.args[2] if len(node.args) > 2 else 0
        for user in list(node.users):
            index = user.args[1]
            start = sum(sizes[:index])
            with graph.inserting_before(user):
                piece = graph.call_function(
                    aten.slice.Tensor, (source, axis, start, start + sizes[index])
                )
            piece.meta["val"] = user.meta["val"]
            user.replace_all_uses_with(piece)
            graph.erase_node(user)
        graph.erase_node(node)


def merge_equal_nodes(graph: fx.Graph) -> None:
    """Compute once what the forward and the backward pass both ask for."""
    seen: dict[Any, fx.Node] = {}
    for node in list(graph.nodes):
        if node.op != "call_function" or torch.Tag.nondeterministic_seeded in getattr(
            node.target, "tags", ()
        ):
            continue
        key = (node.target, _freeze(node.args), _freeze(sorted(node.kwargs.items())))
        if key in seen:
            node.replace_all_uses_with(seen[key])
            graph.erase_node(node)
        else:
            seen[key] = node


def _freeze(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return ("sequence", *map(_freeze, value))
    if isinstance(value, fx.Node):
        return value
    # 1, 1.0 and True are equal in Python and not in a graph.
    return type(value), str(value)


_ELEMENTWISE: Final = frozenset(
    {
        aten.abs.default,
        aten.add.Scalar,
        aten.add.Tensor,
        aten.clamp.default,
        aten.div.Scalar,
        aten.div.Tensor,
        aten.elu.default,
        aten.erf.default,
        aten.exp.default,
        aten.gelu.default,
        aten.hardtanh.default,
        aten.leaky_relu.default,
        aten.log.default,
        aten.maximum.default,
        aten.minimum.default,
        aten.mul.Scalar,
        aten.mul.Tensor,
        aten.neg.default,
        aten.pow.Tensor_Scalar,
        aten.reciprocal.default,
        aten.relu.default,
        aten.rsqrt.default,
        aten.sigmoid.default,
        aten.sign.default,
        aten.sqrt.default,
        aten.sub.Scalar,
        aten.sub.Tensor,
        aten.tanh.default,
        aten.where.self,
    }
)


def sink_permutations(graph: fx.Graph) -> None:
    """Move permutations behind element-wise operators until two of them meet and cancel.

    Each convolution works on channels-last images between two permutations; what stands between
    convolutions is element-wise, so that the image stays channels-last from end to end.
    """
    for node in list(graph.nodes):
        if node.op != "call_function":
            continue
        if node.target is aten.permute.default:
            _compose(graph, node)
        elif node.target in _ELEMENTWISE:
            _sink(graph, node)
    _remove_unused(graph)


def _order(node: object) -> list[int] | None:
    """Return a permutation's order without negative axes, or None for any other node."""
    if not isinstance(node, fx.Node) or node.target is not aten.permute.default:
        return None
    axes: Any = node.args[1]
    return [axis % len(axes) for axis in axes]


def _permute(graph: fx.Graph, source: fx.Node, order: list[int]) -> fx.Node:
    """Return ``source`` permuted; two permutations in a row become one or none."""
    value = source.meta["val"].permute(order)
    inner = _order(source)
    if inner is not None:
        source, order = cast(fx.Node, source.args[0]), [inner[axis] for axis in order]
    if order == list(range(len(order))):
        return source
    node = graph.call_function(aten.permute.default, (source, order))
    node.meta["val"] = value
    return node


def _compose(graph: fx.Graph, node: fx.Node) -> None:
    order, source = _order(node), node.args[0]
    if order is None or not isinstance(source, fx.Node) or _order(source) is None:
        return
    with graph.inserting_before(node):
        merged = _permute(graph, source, order)
    node.replace_all_uses_with(merged)
    graph.erase_node(node)


def _sink(graph: fx.Graph, node: fx.Node) -> None:
    tensors = [a for a in node.args if isinstance(a, fx.Node) and a.meta["val"].dim() > 0]
    permuted = [tensor for tensor in tensors if _order(tensor) is not None]
    rank = node.meta["val"].dim()
    if not permuted or any(tensor.meta["val"].dim() != rank for tensor in tensors):
        return
    # What has no permutation gets one in front; that pays unless most operands have none.
    if 2 * len(permuted) < len(tensors):
        return
    order = cast(list[int], _order(permuted[0]))
    inverse = sorted(range(rank), key=order.__getitem__)
    with graph.inserting_before(node):
        arguments = tuple(
            _permute(graph, cast(fx.Node, argument), inverse) if argument in tensors else argument
            for argument in node.args
        )
        result = graph.call_function(cast(Any, node.target), arguments, dict(node.kwargs))
        result.meta["val"] = node.meta["val"].permute(inverse)
        outer = _permute(graph, result, order)
    node.replace_all_uses_with(outer)
    graph.erase_node(node)


def multiply_by_ones_instead_of_summing(graph: fx.Graph) -> None:
    """Write the sum of a matrix over its rows as a product, which the delegate computes.

    Such sums are the gradients of biases. The portable kernel walks down each column.
    """
    for node in list(graph.nodes):
        if node.target is not aten.sum.dim_IntList or node.kwargs.get("dtype") is not None:
            continue
        source, axes, *rest = node.args
        value = source.meta["val"]
        keep = bool(rest[0]) if rest else False
        if value.dim() != 2 or list(axes) != [0] or value.dtype != torch.float32:
            continue
        rows, columns = value.shape
        if rows == 1:
            continue
        with graph.inserting_before(node):
            ones = graph.call_function(
                aten.full.default, ([rows, 1], 1.0), {"dtype": torch.float32}
            )
            turned = graph.call_function(aten.permute.default, (source, [1, 0]))
            product = graph.call_function(aten.mm.default, (turned, ones))
            shape = [1, columns] if keep else [columns]
            result = graph.call_function(aten.reshape.default, (product, shape))
            ones.meta["val"] = value.new_empty(rows, 1)
            turned.meta["val"] = value.t()
            product.meta["val"] = value.new_empty(columns, 1)
            result.meta["val"] = node.meta["val"]
        node.replace_all_uses_with(result)
        graph.erase_node(node)


_VIEWS: Final = frozenset(
    {
        aten.view.default,
        aten._unsafe_view.default,
        aten.squeeze.dim,
        aten.squeeze.dims,
        aten.unsqueeze.default,
    }
)
_SCALAR_FORMS: Final[dict[Any, Any]] = {
    aten.add.Scalar: aten.add.Tensor,
    aten.div.Scalar: aten.div.Tensor,
    aten.mul.Scalar: aten.mul.Tensor,
    aten.sub.Scalar: aten.sub.Tensor,
}


def leave_to_the_delegate(graph: fx.Graph) -> None:
    """Write what XNNPACK does not take in a form that it does, so that its pieces stay whole.

    Tracing took copies out, so torch can no longer know that a view is of a dense tensor; a reshape
    holds of every tensor.
    """
    for node in graph.nodes:
        if node.target in _VIEWS:
            shape = list(node.meta["val"].shape)
            node.target, node.args = aten.reshape.default, (node.args[0], shape)
        elif node.target in _SCALAR_FORMS and node.meta["val"].dtype == torch.float32:
            node.target = _SCALAR_FORMS[node.target]


def take_floats_for_integers(graph: fx.Graph) -> None:
    """Write ``1 - x`` as ``1.0 - x``: the compiler would make a tensor of the integer and convert."""
    for node in graph.nodes:
        if node.target not in _ELEMENTWISE or node.meta["val"].dtype != torch.float32:
            continue
        node.args = tuple(float(a) if type(a) is int else a for a in node.args)


def _remove_unused(graph: fx.Graph) -> None:
    graph.eliminate_dead_code(is_impure_node=lambda node: node.op in ("placeholder", "output"))
