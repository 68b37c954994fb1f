"""What a graph costs, counted from its operators: floating-point operations and memory."""

from __future__ import annotations

import operator
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Final

import torch
from torch import fx
from torch.utils.flop_counter import flop_registry

from pocketfl.plan.card import BatchCost
from pocketfl.plan.models import MAX_BATCH
from pocketfl_export.errors import ExportError
from pocketfl_export.problem import TrainingProblem
from pocketfl_export.tracing import (
    DecompositionTable,
    TracedGraph,
    TracedGraphs,
    trace_problem,
)

BATCH_SIZES: Final = (1, 8, 16, 32, 64, 128)
"""Sizes that costs are stated for, besides the plan's own."""

aten = torch.ops.aten

_MOVES: Final = frozenset(
    {
        aten.as_strided,
        aten.cat,
        aten.clone,
        aten.constant_pad_nd,
        aten.copy,
        aten.diagonal,
        aten.embedding,
        aten.expand,
        aten.flip,
        aten.full,
        aten.full_like,
        aten.gather,
        aten.index,
        aten.index_select,
        aten.permute,
        aten.repeat,
        aten.reshape,
        aten.scalar_tensor,
        aten.scatter,
        aten.select,
        aten.slice,
        aten.split_with_sizes,
        aten.squeeze,
        aten.stack,
        aten.t,
        aten.transpose,
        aten.unsqueeze,
        aten.view,
        aten._to_copy,
        aten._unsafe_view,
    }
)
"""Operators that compute nothing."""
_ALIASES: Final = frozenset(
    {aten.expand, aten.reshape, aten.squeeze, aten.unsqueeze, aten.view, aten._unsafe_view}
)
"""Those that also take no memory: the same numbers under another shape."""
_BY_INPUT: Final = frozenset(
    {
        aten.amax,
        aten.amin,
        aten.any,
        aten.argmax,
        aten.linalg_vector_norm,
        aten.mean,
        aten.prod,
        aten.scatter_add,
        aten.sum,
        aten.var,
        aten.var_mean,
    }
)
"""Operators whose work is that of their largest argument: reductions."""


def batch_costs(
    traced: TracedGraphs, decompositions: DecompositionTable
) -> dict[str, tuple[BatchCost, ...]]:
    """Return the costs of three graphs, traced with these decompositions, for several batch sizes.

    Operations and most tensors grow with the batch in a straight line, which two traced sizes give.
    The plan's own size is counted, not interpolated. A model that can only be traced at its own size
    has that one line.
    """
    problem = traced.problem
    rows = problem.batch_size
    other = 2 * rows if 2 * rows <= MAX_BATCH else rows // 2
    own = _count(traced)
    try:
        resized = _resized(problem, other)
        second = _count(trace_problem(resized, decompositions=decompositions))
    except (ExportError, RuntimeError):
        return {part: (cost,) for part, cost in own.items()}
    sizes = sorted({*BATCH_SIZES, rows})
    return {
        part: tuple(_between(cost, second[part], size) for size in sizes)
        for part, cost in own.items()
    }


def _resized(problem: TrainingProblem, rows: int) -> TrainingProblem:
    index = torch.arange(rows) % problem.batch_size
    return replace(
        problem,
        inputs={name: value[index] for name, value in problem.inputs.items()},
        target=problem.target[index],
        spec=replace(problem.spec, batch_size=rows),
    )


def _count(traced: TracedGraphs) -> dict[str, BatchCost]:
    rows = traced.problem.batch_size
    return {part: graph_cost(graph, rows) for part, graph in traced.items()}


def _between(first: BatchCost, second: BatchCost, rows: int) -> BatchCost:
    share = (rows - first.batch_size) / (second.batch_size - first.batch_size)

    def at(one: int, other: int) -> int:
        return max(0, round(one + share * (other - one)))

    return BatchCost(
        batch_size=rows,
        flops=at(first.flops, second.flops),
        memory_bytes=at(first.memory_bytes, second.memory_bytes),
    )


def graph_cost(traced: TracedGraph, batch_size: int) -> BatchCost:
    """Count one traced graph."""
    nodes = list(traced.graph_module.graph.nodes)
    return BatchCost(
        batch_size=batch_size,
        flops=sum(_flops(node) for node in nodes),
        memory_bytes=_peak_bytes(nodes),
    )


def _flops(node: fx.Node) -> int:
    if node.op != "call_function" or not isinstance(node.target, torch._ops.OpOverload):
        return 0
    packet = node.target.overloadpacket
    value = node.meta.get("val")
    if packet in flop_registry:
        arguments = fx.map_arg(node.args, lambda n: n.meta["val"])
        keywords = fx.map_arg(node.kwargs, lambda n: n.meta["val"])
        return int(flop_registry[packet](*arguments, **keywords, out_val=value))
    if packet in _MOVES:
        return 0
    if packet in _BY_INPUT:
        return max(
            (_elements(source.meta.get("val")) for source in node.all_input_nodes), default=0
        )
    return _elements(value)


def _peak_bytes(nodes: list[fx.Node]) -> int:
    """Run through the graph in order, keeping each tensor until its last use, and inputs throughout."""
    owner: dict[fx.Node, fx.Node] = {}
    last: dict[fx.Node, int] = {}
    for place, node in enumerate(nodes):
        sources = [owner[source] for source in node.all_input_nodes]
        owner[node] = sources[0] if _shares_memory(node) else node
        last.update(dict.fromkeys([owner[node], *sources], place))
    expiring: dict[int, list[fx.Node]] = {}
    for node, place in last.items():
        if node.op == "placeholder":
            continue
        expiring.setdefault(place, []).append(node)
    alive = peak = 0
    for place, node in enumerate(nodes):
        alive += _bytes(node) if owner[node] is node else 0
        peak = max(peak, alive)
        alive -= sum(_bytes(source) for source in expiring.get(place, ()))
    return peak


def _shares_memory(node: fx.Node) -> bool:
    if node.target is operator.getitem:  # A piece of a tuple is counted where the tuple was made.
        return True
    if not isinstance(node.target, torch._ops.OpOverload):
        return False
    packet = node.target.overloadpacket
    # A turned matrix goes into a product, which reads it the other way round.
    turned = packet in (aten.permute, aten.t, aten.transpose) and node.meta["val"].dim() == 2
    return turned or packet in _ALIASES


def _bytes(node: fx.Node) -> int:
    if node.op == "output":
        return 0
    return sum(tensor.numel() * tensor.element_size() for tensor in _tensors(node.meta.get("val")))


def _elements(value: Any) -> int:
    return sum(tensor.numel() for tensor in _tensors(value))


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _tensors(item)
