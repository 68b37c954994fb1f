"""Passes that do at once what an unrolled loop does step by step.

The gradient of a weight that a recurrent net uses at every step is a sum of as many products. They have
to wait for nothing but each other's operands, so that one product of the joined operands gives the sum:
``A1 @ B1 + A2 @ B2`` is ``[A1 A2] @ [B1; B2]``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import torch
from torch import fx

aten = torch.ops.aten

FEWEST: Final = 3
"""Terms from which on joining pays: two are as good as a product that adds."""
_VIEWS: Final = frozenset(
    {aten.view.default, aten._unsafe_view.default, aten.reshape.default, aten.squeeze.dim}
)


def join_sums(graph: fx.Graph) -> None:
    """Replace sums of products, and of sums over rows, by one product or sum over joined operands."""
    for node in list(graph.nodes):
        if not _is_plain_sum(node) or any(_continues(user, node) for user in node.users):
            continue
        terms = _terms(node)
        if len(terms) < FEWEST:
            continue
        groups: dict[Any, list[fx.Node]] = {}
        for term in terms:
            groups.setdefault(_kind(term), []).append(term)
        joined = [
            (kind, group)
            for kind, group in groups.items()
            if kind is not None and len(group) >= FEWEST
        ]
        if not joined:
            continue
        covered = {term for _, group in joined for term in group}
        remaining = [term for term in terms if term not in covered]
        with graph.inserting_before(node):
            results = [_join(graph, kind[0], group) for kind, group in joined]
            total, *others = [*remaining, *results]
            for other in others:
                total = _call(graph, node.meta, aten.add.Tensor, (total, other))
        node.replace_all_uses_with(total)
        graph.erase_node(node)


def _is_plain_sum(node: fx.Node) -> bool:
    if node.target is not aten.add.Tensor or node.kwargs:
        return False
    shape = node.meta["val"].shape
    return all(isinstance(a, fx.Node) and a.meta["val"].shape == shape for a in node.args)


def _continues(user: fx.Node, node: fx.Node) -> bool:
    return len(node.users) == 1 and _is_plain_sum(user)


def _terms(root: fx.Node) -> list[fx.Node]:
    """Return what a tree of additions adds up."""
    terms: list[fx.Node] = []
    waiting = [root]
    while waiting:
        node = waiting.pop()
        inner = node is root or (_is_plain_sum(node) and len(node.users) == 1)
        if inner:
            waiting.extend(reversed([a for a in node.args if isinstance(a, fx.Node)]))
        else:
            terms.append(node)
    # The backward pass goes from the last step to the first, and stacks what it finds from the first.
    return terms[::-1]


def _kind(term: fx.Node) -> tuple[Any, ...] | None:
    """Return what terms have to have in common to be joined; None for what cannot be."""
    if len(term.users) != 1:
        return None
    if term.target is aten.mm.default:
        left, right = _operands(term)
        turned = left.target is aten.permute.default
        return "product", turned, left.meta["val"].shape[0], right.meta["val"].shape[1]
    total = _row_sum(term)
    if total is None:
        return None
    source = total.all_input_nodes[0]
    return ("rows", source.meta["val"].shape[1:], term.meta["val"].shape, str(total.args[1:]))


def _operands(product: fx.Node) -> tuple[fx.Node, fx.Node]:
    left, right = product.args
    assert isinstance(left, fx.Node)  # noqa: S101 - a product of tensors
    assert isinstance(right, fx.Node)  # noqa: S101
    return left, right


def _row_sum(term: fx.Node) -> fx.Node | None:
    """Return the sum over rows that a term is, or is another view of."""
    node: Any = term
    if node.target in _VIEWS and len(node.users) == 1:
        node = node.args[0]
    if not isinstance(node, fx.Node) or node.target is not aten.sum.dim_IntList or node.kwargs:
        return None
    return node if node.args[1] == [0] and len(node.users) == 1 else None


def _join(graph: fx.Graph, kind: str, group: Sequence[fx.Node]) -> fx.Node:
    first = group[0]
    if kind == "product":
        pairs = [_operands(product) for product in group]
        right = _concatenate(graph, [pair[1] for pair in pairs], 0)
        lefts = [pair[0] for pair in pairs]
        if lefts[0].target is aten.permute.default:
            sources: list[Any] = [left.args[0] for left in lefts]
            rows = _concatenate(graph, sources, 0)
            left = _call(graph, lefts[0].meta, aten.permute.default, (rows, [1, 0]))
            left.meta["val"] = rows.meta["val"].t()
        else:
            left = _concatenate(graph, lefts, 1)
        return _call(graph, first.meta, aten.mm.default, (left, right))
    totals: list[Any] = [_row_sum(term) for term in group]
    rows = _concatenate(graph, [total.args[0] for total in totals], 0)
    total = _call(graph, totals[0].meta, aten.sum.dim_IntList, (rows, *totals[0].args[1:]))
    if total.meta["val"].shape == first.meta["val"].shape:
        return total
    shape = list(first.meta["val"].shape)
    return _call(graph, first.meta, aten.reshape.default, (total, shape))


def _concatenate(graph: fx.Graph, nodes: Sequence[fx.Node], axis: int) -> fx.Node:
    values = [node.meta["val"] for node in nodes]
    joined = _call(graph, nodes[0].meta, aten.cat.default, (list(nodes), axis))
    shape = list(values[0].shape)
    shape[axis] = sum(int(value.shape[axis]) for value in values)
    joined.meta["val"] = values[0].new_empty(shape)
    return joined


def _call(
    graph: fx.Graph, meta: dict[str, Any], target: Any, arguments: tuple[Any, ...]
) -> fx.Node:
    node = graph.call_function(target, arguments)
    node.meta = dict(meta)
    return node


def skip_padding(graph: fx.Graph) -> None:
    """Take one slice out of a padded tensor from the tensor itself, or make it zeros.

    The gradient of reading one step of a sequence pads it to the whole sequence, of which each step of
    the backward pass then takes its own.
    """
    for node in list(graph.nodes):
        if node.target is not aten.select.int:
            continue
        source, axis, index = node.args
        order: list[int] | None = None
        padded: Any = source
        if padded.target is aten.permute.default:
            dims = padded.meta["val"].dim()
            order = [int(d) % dims for d in padded.args[1]]
            padded = padded.args[0]
        if padded.op != "call_function" or padded.target is not aten.constant_pad_nd.default:
            continue
        axis = int(axis) % padded.meta["val"].dim()
        length = int(source.meta["val"].shape[axis])
        inner = axis if order is None else order[axis]
        before = _only_padding(padded, inner)
        if before is None:
            continue
        position = int(index) % length - before
        kept = padded.args[0]
        value = node.meta["val"]
        with graph.inserting_before(node):
            if 0 <= position < int(kept.meta["val"].shape[inner]):
                if order is not None:
                    moved = kept.meta["val"].permute(order)
                    kept = _call(graph, node.meta, aten.permute.default, (kept, order))
                    kept.meta["val"] = moved
                piece = _call(graph, node.meta, aten.select.int, (kept, axis, position))
            else:
                piece = _call(graph, node.meta, aten.full.default, (list(value.shape), 0.0))
                piece.kwargs = {"dtype": value.dtype}
        node.replace_all_uses_with(piece)
        graph.erase_node(node)


def _only_padding(padded: fx.Node, axis: int) -> int | None:
    """Return how many zeros are in front along an axis, if that is the only one that was padded."""
    amounts: Any = padded.args[1]
    fill = padded.args[2] if len(padded.args) > 2 else 0
    dims = padded.meta["val"].dim()
    place = 2 * (dims - 1 - axis)
    if fill != 0 or place + 1 >= len(amounts) or min(amounts) < 0:
        return None
    others = [a for i, a in enumerate(amounts) if i not in (place, place + 1)]
    return None if any(others) else int(amounts[place])
