"""Traced graphs: pure, simplified, and equal to the functions that they were traced from."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from pocketfl_benchmarks.models import MODELS
from pocketfl_export.decompositions import onnx_table
from pocketfl_export.errors import UnsupportedModelError
from pocketfl_export.simplification import simplify
from pocketfl_export.steps import evaluation, prediction, train_step
from pocketfl_export.tracing import trace, trace_graphs

aten = torch.ops.aten


def targets(graph_module: torch.fx.GraphModule) -> list[str]:
    return [str(n.target) for n in graph_module.graph.nodes if n.op == "call_function"]


@pytest.mark.parametrize("name", ["mlp", "cnn_max_pool", "click", "transformer"])
def test_graphs_compute_what_the_functions_do(name: str) -> None:
    """Training, evaluation and prediction, run as graphs in torch."""
    graphs = trace_graphs(*MODELS[name](), decompositions=onnx_table())
    for function, traced in (
        (train_step, graphs.train),
        (evaluation, graphs.evaluate),
        (prediction, graphs.predict),
    ):
        expected = function(graphs.problem)(*traced.example)
        found = traced.graph_module(*traced.example)
        assert len(found) == len(expected) == len(traced.output_specs)
        for ours, theirs, spec in zip(found, expected, traced.output_specs, strict=True):
            torch.testing.assert_close(ours, theirs.detach(), rtol=1e-5, atol=1e-6)
            assert tuple(ours.shape) == spec.shape


def test_graphs_have_the_agreed_signatures() -> None:
    """Order and names of what goes in and out."""
    graphs = trace_graphs(*MODELS["click"](), decompositions=onnx_table())
    inputs = ["parameters", "dense", "categories"]
    assert [s.name for s in graphs.train.input_specs] == [
        *inputs,
        "target",
        "weight",
        "learning_rate",
        "clip_norm",
    ]
    assert [s.name for s in graphs.evaluate.input_specs] == [*inputs, "target", "weight"]
    assert [s.name for s in graphs.predict.input_specs] == inputs
    assert [s.name for s in graphs.train.output_specs] == [
        "new_parameters",
        "loss",
        "gradient_norm",
    ]
    assert [s.name for s in graphs.evaluate.output_specs] == ["loss", "output"]
    assert graphs.train.input_specs[0].shape == (30_193,)


def test_graphs_are_pure_and_without_origin() -> None:
    """No operator changes its arguments; of its origin a node tells its module's name."""
    for name in ("conv1d", "click"):
        for _, traced in trace_graphs(*MODELS[name](), decompositions=onnx_table()).items():
            for node in traced.graph_module.graph.nodes:
                if isinstance(node.target, torch._ops.OpOverload):
                    assert not node.target._schema.is_mutable
                assert set(node.meta) <= {"val", "tensor_meta", "scope"}


def test_the_same_tensor_twice_stays_two_inputs() -> None:
    """A function of two arguments keeps them apart when the example has one tensor for both."""
    x = torch.ones(3)
    graph = trace(lambda a, b: (a - 2 * b,), (x, x), decompositions=onnx_table())
    torch.testing.assert_close(graph(torch.ones(3), torch.zeros(3))[0], torch.ones(3))


def test_changes_in_place_are_traced_as_values() -> None:
    """Code that writes into its own intermediate results is exported as what it computes."""

    def function(x: Tensor) -> tuple[Tensor]:
        y = x * 2
        y[0] = 5.0
        y[1:].add_(1)
        return (y.relu_(),)

    x = torch.tensor([1.0, -3.0, 2.0])
    graph = trace(function, (x,), decompositions=onnx_table())
    torch.testing.assert_close(graph(x)[0], torch.tensor([5.0, 0.0, 5.0]))
    torch.testing.assert_close(x, torch.tensor([1.0, -3.0, 2.0]))


@pytest.mark.parametrize(
    "function",
    [
        lambda x: (x if x.sum() > 0 else -x,),
        lambda x: (x[x > 0],),
        lambda x: (x * x.max().item(),),
        lambda x: (torch.nonzero(x),),
        lambda x: (F.one_hot(x.long()),),
    ],
)
def test_what_depends_on_values_is_refused(function: Callable) -> None:
    """A graph has one shape and one path, whatever the data."""
    with pytest.raises(UnsupportedModelError, match="values of the example"):
        trace(function, (torch.ones(3),), decompositions=onnx_table())


def test_random_operators_are_refused() -> None:
    """Dropout that is always on cannot become a pure function."""
    with pytest.raises(UnsupportedModelError, match="random"):
        trace(lambda x: (F.dropout(x, 0.5, True),), (torch.ones(3),), decompositions=onnx_table())


SIMPLIFICATIONS: dict[str, tuple[Callable, list[str]]] = {
    "times one": (lambda x: x * torch.ones_like(x), []),
    "plus zero": (lambda x: x + torch.zeros(3), []),
    "two permutations": (lambda x: x.t().t().exp(), ["aten.exp.default"]),
    "there and back": (lambda x: x.reshape(9).reshape(3, 3).exp(), ["aten.exp.default"]),
    "chain of views": (
        lambda x: x.exp().unsqueeze(0).reshape(9, 1).squeeze(1),
        ["aten.exp.default", "aten.reshape.default"],
    ),
    "computed twice": (lambda x: x.exp() * x.exp(), ["aten.exp.default", "aten.mul.Tensor"]),
    "expanded operand": (lambda x: x * x[0].exp().expand(3, 3), None),
    "constants": (lambda x: x + torch.arange(3).float().exp(), ["aten.add.Tensor"]),
    "dead code": (lambda x: (x.exp(), x.sin())[1], ["aten.sin.default"]),
}


@pytest.mark.parametrize(
    ("function", "expected"), SIMPLIFICATIONS.values(), ids=SIMPLIFICATIONS.keys()
)
def test_simplification_keeps_the_meaning(function: Callable, expected: list[str] | None) -> None:
    """The graph gets shorter and computes the same."""
    x = torch.randn(3, 3, generator=torch.Generator().manual_seed(0))
    graph = trace(lambda x: (function(x),), (x,), decompositions=onnx_table())
    torch.testing.assert_close(graph(x)[0], function(x))
    if expected is not None:
        assert targets(graph) == expected
    assert "aten.expand.default" not in targets(graph)


def test_a_sum_over_scattered_values_is_their_sum() -> None:
    """Only where the values cover the other axes; else the sum over the zeros stays."""
    index = torch.tensor([[1], [0], [1]])
    values = torch.tensor([[1.0], [2.0], [3.0]])

    def covering(v: Tensor) -> tuple[Tensor]:
        return (torch.zeros(3, 4).scatter_add(1, index, v).sum(1),)

    def partly(v: Tensor) -> tuple[Tensor]:
        return (torch.zeros(5, 4).scatter_add(1, index, v).sum(1),)

    for function, is_short in ((covering, True), (partly, False)):
        graph = trace(function, (values,), decompositions=onnx_table())
        torch.testing.assert_close(graph(values)[0], function(values)[0])
        assert ("aten.scatter_add.default" not in targets(graph)) == is_short


@pytest.mark.parametrize(
    "options",
    [{}, {"label_smoothing": 0.1}, {"ignore_index": 1}, {"reduction": "sum"}],
    ids=["plain", "smoothed", "ignoring", "summed"],
)
def test_cross_entropy_keeps_its_options(options: dict) -> None:
    """The short form of one example is taken only where it is the same."""
    torch.manual_seed(0)
    logits, target = torch.randn(1, 5), torch.tensor([3])

    def function(x: Tensor) -> tuple[Tensor]:
        return (F.cross_entropy(x, target, **options),)

    graph = trace(function, (logits,), decompositions=onnx_table())
    torch.testing.assert_close(graph(logits)[0], function(logits)[0])


def test_simplification_tells_numbers_of_different_types_apart() -> None:
    """``1`` and ``True`` and ``1.0`` are equal in Python, not in a graph."""

    def function(x: Tensor) -> tuple[Tensor, Tensor]:
        return torch.full((2,), 1) + x.long(), torch.full((2,), 1.0) * x

    graph = trace(function, (torch.full((2,), 2.0),), decompositions=onnx_table())
    found = graph(torch.full((2,), 2.0))
    assert [v.dtype for v in found] == [torch.int64, torch.float32]


def test_simplifying_twice_changes_nothing_more() -> None:
    """A fixed point is reached in one go."""
    graph = trace_graphs(*MODELS["mlp"](), decompositions=onnx_table()).train.graph_module
    before = targets(graph)
    assert targets(simplify(graph)) == before


def test_a_model_that_vmap_cannot_take_is_explained() -> None:
    """A loss that leaves torch is refused with what torch said."""

    def loss(outputs: Tensor, target: Tensor) -> Tensor:
        return torch.from_numpy(outputs.detach().numpy()).mean() + outputs.mean() * 0

    with pytest.raises(UnsupportedModelError, match="Rewrite"):
        trace_graphs(
            nn.Linear(3, 2), loss, torch.ones(4, 3), torch.ones(4), decompositions=onnx_table()
        )
