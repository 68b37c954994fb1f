"""Running a function of tensors through the exporter and ONNX Runtime."""

from collections.abc import Callable

import pytest
import torch
from torch.func import vjp

from pocketfl.plan.models import TensorSpec
from pocketfl_export.decompositions import onnx_table
from pocketfl_export.onnx import run_graph
from pocketfl_export.problem import DTYPES
from pocketfl_export.tracing import TracedGraph, trace

Tensors = tuple[torch.Tensor, ...]


def specs(prefix: str, values: Tensors) -> tuple[TensorSpec, ...]:
    return tuple(
        TensorSpec(name=f"{prefix}_{i}", dtype=DTYPES[v.dtype], shape=tuple(v.shape))
        for i, v in enumerate(values)
    )


def make_graph(function: Callable[..., Tensors], arguments: Tensors) -> TracedGraph:
    graph_module = trace(function, arguments, decompositions=onnx_table())
    output = next(n for n in graph_module.graph.nodes if n.op == "output")
    results = tuple(n.meta["val"] for n in output.args[0])
    return TracedGraph(graph_module, specs("in", arguments), specs("out", results), arguments)


@pytest.fixture
def check_operator() -> Callable[..., None]:
    """Compare a function and its gradient, exported, with eager torch."""

    def check(function: Callable[..., torch.Tensor], *arguments: torch.Tensor) -> None:
        torch.manual_seed(0)
        floats = [i for i, a in enumerate(arguments) if a.is_floating_point()]
        result = function(*arguments)
        differentiable = result.is_floating_point() and bool(floats)
        cotangent = torch.randn_like(result) if differentiable else torch.zeros(())

        def both(*values: torch.Tensor) -> Tensors:
            *inputs, weights = values
            if not differentiable:
                return (function(*inputs),)

            def of_floats(*some: torch.Tensor) -> torch.Tensor:
                everything = list(inputs)
                for place, value in zip(floats, some, strict=True):
                    everything[place] = value
                return function(*everything)

            value, pull = vjp(of_floats, *(inputs[i] for i in floats))
            return (value, *pull(weights))

        given = (*arguments, cotangent)
        for ours, theirs in zip(
            run_graph(make_graph(both, given), given), both(*given), strict=True
        ):
            assert ours.dtype == theirs.dtype
            assert ours.shape == theirs.shape
            torch.testing.assert_close(ours, theirs, rtol=2e-6, atol=2e-6, equal_nan=True)

    return check


@pytest.fixture
def graph_of() -> Callable[..., TracedGraph]:
    """Trace a function of tensors that returns a tuple of tensors."""

    def graph(function: Callable[..., Tensors], *arguments: torch.Tensor) -> TracedGraph:
        return make_graph(function, arguments)

    return graph
