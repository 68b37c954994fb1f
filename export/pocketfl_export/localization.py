"""Which operator makes an artefact differ: every intermediate value against torch, in order."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor, fx

from pocketfl.plan.models import TensorSpec
from pocketfl_export.problem import DTYPES
from pocketfl_export.tracing import TracedGraph

TOLERANCE = 1e-4
"""Relative to the largest element of a value: above all rounding of one operator's result."""

RunGraph = Callable[[TracedGraph, Sequence[Tensor]], Sequence[Tensor]]
"""Exports a graph through a back end, runs it in the runtime and returns its outputs."""


def find_operator(
    traced: TracedGraph, arguments: Sequence[Tensor], run_graph: RunGraph
) -> str | None:
    """Return the first operator whose result differs from torch's, or None if none does.

    Parameters
    ----------
    traced : TracedGraph
        The graph that was found to differ.
    arguments : sequence of Tensor
        Arguments with which it differs.
    run_graph : callable
        Exports and runs a graph.
    """
    exposed, nodes = _expose(traced)
    expected = exposed.graph_module(*arguments)
    found = run_graph(exposed, arguments)
    for node, ours, theirs in zip(nodes, found, expected, strict=True):
        if not _agree(ours, theirs):
            return str(node.target)
    return None


def _expose(traced: TracedGraph) -> tuple[TracedGraph, list[fx.Node]]:
    """Return the graph with every intermediate tensor as an output."""
    graph_module = copy.deepcopy(traced.graph_module)
    graph = graph_module.graph
    nodes = [
        node
        for node in graph.nodes
        if node.op == "call_function"
        and isinstance(node.meta.get("val"), Tensor)
        and node.meta["val"].dtype in DTYPES
    ]
    output = next(node for node in graph.nodes if node.op == "output")
    output.args = (tuple(nodes),)
    graph_module.recompile()
    specs = tuple(
        TensorSpec(
            name=f"value_{number}",
            dtype=DTYPES[node.meta["val"].dtype],
            shape=tuple(node.meta["val"].shape),
        )
        for number, node in enumerate(nodes)
    )
    return replace(traced, graph_module=graph_module, output_specs=specs), nodes


def _agree(found: Tensor, expected: Tensor) -> bool:
    if not expected.is_floating_point():
        # A comparison of two nearly equal numbers may fall either way; what follows from it shows.
        return True
    scale = float(torch.nan_to_num(expected).abs().max()) if expected.numel() else 0.0
    difference = (found - expected).abs()
    return bool((difference <= TOLERANCE * max(scale, 1e-30)).all())
