"""Running functions and their gradients through the exporter and ExecuTorch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor
from torch.func import vjp

from pocketfl.plan.models import TensorSpec
from pocketfl_export.executorch import decomposition_table, run_graph
from pocketfl_export.problem import DTYPES
from pocketfl_export.tracing import TracedGraph, trace

Operator = tuple[Callable[..., Tensor], Sequence[Tensor]]


def make_graph(
    function: Callable[..., Sequence[Tensor]], arguments: Sequence[Tensor]
) -> TracedGraph:
    module = trace(function, tuple(arguments), decompositions=decomposition_table())
    output = next(node for node in module.graph.nodes if node.op == "output")
    results = tuple(node.meta["val"] for node in output.args[0])

    def specs(prefix: str, values: Sequence[Tensor]) -> tuple[TensorSpec, ...]:
        return tuple(
            TensorSpec(name=f"{prefix}_{i}", dtype=DTYPES[v.dtype], shape=tuple(v.shape))
            for i, v in enumerate(values)
        )

    return TracedGraph(module, specs("in", arguments), specs("out", results), tuple(arguments))


def run_operators(operators: Mapping[str, Operator]) -> dict[str, list[tuple[Tensor, Tensor]]]:
    """Run many operators and their gradients in one program: (found, expected) of each."""
    arguments: list[Tensor] = []
    places: dict[str, range] = {}
    generator = torch.Generator().manual_seed(1)
    for name, (function, values) in operators.items():
        weights = torch.randn(function(*values).shape, generator=generator)
        places[name] = range(len(arguments), len(arguments) + len(values) + 1)
        arguments += [*values, weights]

    def everything(*given: Tensor) -> tuple[Tensor, ...]:
        results: list[Tensor] = []
        for name, (function, _) in operators.items():
            *values, weights = (given[place] for place in places[name])
            value, pull = vjp(function, *values)
            results += [value, *pull(weights)]
        return tuple(results)

    expected = everything(*arguments)
    found = run_graph(make_graph(everything, arguments), arguments)
    pairs = list(zip(found, expected, strict=True))
    results: dict[str, list[tuple[Tensor, Tensor]]] = {}
    for name, (_, values) in operators.items():
        results[name], pairs = pairs[: len(values) + 1], pairs[len(values) + 1 :]
    return results
