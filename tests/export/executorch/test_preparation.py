"""Passes keep what a graph computes and do what they are for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import torch
from torch import Tensor, fx
from torch.fx.experimental.proxy_tensor import make_fx

from pocketfl_export.executorch.preparation import (
    merge_equal_nodes,
    multiply_by_ones_instead_of_summing,
    prepare,
    sink_permutations,
    split_into_slices,
)

aten = torch.ops.aten
X = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))


def traced(function: Callable[..., object], *arguments: Tensor) -> fx.GraphModule:
    return make_fx(function, tracing_mode="fake")(*arguments)


def targets(graph: fx.Graph) -> Counter:
    return Counter(node.target for node in graph.nodes if node.op == "call_function")


def apply(run: Callable[[fx.Graph], None], module: fx.GraphModule) -> Counter:
    run(module.graph)
    module.graph.lint()
    module.recompile()
    return targets(module.graph)


def test_a_split_becomes_slices() -> None:
    """Every piece is cut at its place, and a piece nobody uses is not cut."""

    def function(x: Tensor) -> tuple[Tensor, Tensor]:
        first, _, last = torch.split(x, [1, 2, 2], dim=3)
        return first * 2, last + 1

    module = traced(function, X)
    counts = apply(split_into_slices, module)
    assert aten.split_with_sizes.default not in counts
    torch.testing.assert_close(module(X), function(X))


def test_what_is_computed_twice_is_computed_once() -> None:
    """Equal nodes merge; a number and a truth value of equal worth are not equal."""

    def function(x: Tensor) -> Tensor:
        same = x.exp() + x.exp()
        return same + aten.clamp(x, 0) + aten.clamp(x, 0.0) + x.exp().sum()

    module = traced(function, X)
    counts = apply(merge_equal_nodes, module)
    assert counts[aten.exp.default] == 1
    assert counts[aten.clamp.default] == 2
    torch.testing.assert_close(module(X), function(X))


def test_permutations_meet_and_cancel() -> None:
    """Between two channels-last stages nothing is turned round and back."""

    def function(x: Tensor) -> Tensor:
        first = x.permute(0, 3, 1, 2)
        hidden = torch.relu(first) * 2.0 + first
        return hidden.permute(0, 2, 3, 1)

    module = traced(function, X)
    counts = apply(sink_permutations, module)
    assert counts[aten.permute.default] == 0
    torch.testing.assert_close(module(X), function(X))


def test_operands_without_a_permutation_get_one() -> None:
    """One turned operand against one straight one: the result is still right."""

    def function(x: Tensor, y: Tensor) -> Tensor:
        return (x.permute(0, 3, 1, 2) - y).tanh().permute(0, -2, 3, 1)

    y = torch.randn(2, 5, 3, 4)
    module = traced(function, X, y)
    apply(sink_permutations, module)
    torch.testing.assert_close(module(X, y), function(X, y))


def test_broadcast_operands_are_left_alone() -> None:
    """An operand of lower rank has no axes to permute."""

    def function(x: Tensor, row: Tensor) -> Tensor:
        return x.permute(0, 3, 1, 2) + row

    row = torch.randn(4)
    module = traced(function, X, row)
    apply(sink_permutations, module)
    torch.testing.assert_close(module(X, row), function(X, row))


def test_sums_over_rows_become_products() -> None:
    """Only sums of a matrix over its first axis; the shape is kept either way."""

    def function(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return x.sum([0]), x.sum([0], keepdim=True), x.sum([1])

    x = torch.randn(6, 3)
    module = traced(function, x)
    counts = apply(multiply_by_ones_instead_of_summing, module)
    assert counts[aten.mm.default] == 2
    assert counts[aten.sum.dim_IntList] == 1
    torch.testing.assert_close(module(x), function(x))


def test_the_traced_graph_itself_stays() -> None:
    """Preparation works on a copy."""
    module = traced(lambda x: x.view(6, 20).split(2)[1].sum([0]), X)
    before = str(module.graph)
    prepared = prepare(module)
    assert str(module.graph) == before
    assert str(prepared.graph) != before
    torch.testing.assert_close(prepared(X), module(X))
