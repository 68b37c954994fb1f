"""The ONNX files themselves: small, named, reproducible, free of the machine they were made on."""

import sys
from collections.abc import Callable

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from pocketfl_benchmarks.models import MODELS
from pocketfl_export.backends import BACK_ENDS
from pocketfl_export.errors import UnsupportedModelError
from pocketfl_export.onnx import IR_VERSION, OPSET, decomposition_table, emit
from pocketfl_export.problem import make_problem
from pocketfl_export.tracing import TracedGraph, trace_problem

GraphOf = Callable[..., TracedGraph]


@pytest.fixture(scope="module")
def traced() -> dict[str, TracedGraph]:
    """Training graphs of a small and a convolutional model."""
    return {
        name: trace_problem(
            make_problem(*MODELS[name]()), decompositions=decomposition_table()
        ).train
        for name in ("mlp", "cnn_strided")
    }


def test_signature_is_that_of_the_contract(traced: dict[str, TracedGraph]) -> None:
    """Names and order of inputs and outputs, opset and IR version."""
    model = emit(traced["mlp"], name="train")
    assert [i.name for i in model.graph.input] == [
        "parameters",
        "image",
        "target",
        "weight",
        "learning_rate",
        "clip_norm",
    ]
    assert [o.name for o in model.graph.output] == ["new_parameters", "loss", "gradient_norm"]
    assert [(o.domain, o.version) for o in model.opset_import] == [("", OPSET)] == [("", 17)]
    assert model.ir_version == IR_VERSION == 8


def test_graphs_are_small_and_hold_no_weights(traced: dict[str, TracedGraph]) -> None:
    """Parameters are inputs; what is left is the arithmetic."""
    for graph in traced.values():
        model = emit(graph, name="train")
        assert len(model.SerializeToString()) < 16_000
        assert sum(np.prod(t.dims) for t in model.graph.initializer) < 1_000


def test_every_node_has_a_name_of_its_own_and_nothing_else_to_tell(
    traced: dict[str, TracedGraph],
) -> None:
    """Unique names, no documentation strings, no metadata, standard operators only."""
    for graph in traced.values():
        model = emit(graph, name="train")
        names = [node.name for node in model.graph.node]
        assert all(names)
        assert len(set(names)) == len(names)
        assert not any(node.doc_string or node.metadata_props for node in model.graph.node)
        assert {node.domain for node in model.graph.node} <= {""}
        assert not model.metadata_props
        assert not model.doc_string
        text = model.SerializeToString()
        for needle in (sys.prefix, torch.__file__, __file__, ".py"):
            assert needle.encode() not in text


def test_nodes_and_values_are_named_after_modules_and_operators() -> None:
    """A viewer shows which layer a node is of, forward or gradient, also behind a recurrent kernel."""
    model = emit(
        trace_problem(make_problem(*MODELS["gru"]()), decompositions=decomposition_table()).train,
        name="train",
    )
    named = {(node.name, node.output[0]) for node in model.graph.node}
    # A value that goes from one module to another is called after both module and operator; one that
    # never leaves its module after the operator alone.
    assert {("embedding/Gather", "embedding/Gather"), ("head/Gemm", "head/Gemm")} <= named
    assert any(name.startswith("gru/") and "/" not in value for name, value in named)
    scopes = {name.rpartition("/")[0] for name, _ in named}
    assert {"embedding.grad", "gru.grad", "head.grad", "loss.grad", "clip", "update"} <= scopes
    assert {"parameters", "gru.weight_hh_l0", "gradient"} <= scopes


def test_the_same_model_gives_the_same_bytes() -> None:
    """Exporting twice, in one process, from two equal models."""
    back_end = BACK_ENDS["onnxruntime"]
    first = back_end.export_parts(make_problem(*MODELS["click"]()))
    second = back_end.export_parts(make_problem(*MODELS["click"]()))
    assert first == second


def test_an_output_with_an_inputs_name_gets_another(graph_of: GraphOf) -> None:
    """Outputs are addressed by position, so their names may give way."""
    graph = graph_of(lambda x: (x, x + 1, x), torch.ones(2))
    renamed = [s.__class__(name="in_0", dtype=s.dtype, shape=s.shape) for s in graph.output_specs]
    graph = TracedGraph(graph.graph_module, graph.input_specs, tuple(renamed), graph.example)
    model = emit(graph, name="graph")
    names = [o.name for o in model.graph.output]
    assert len({*names, "in_0"}) == 4
    session = onnxruntime.InferenceSession(model.SerializeToString())
    found = session.run(None, {"in_0": np.ones(2, np.float32)})
    np.testing.assert_array_equal(found, [[1, 1], [2, 2], [1, 1]])


def test_common_work_is_done_once_and_dead_work_not_at_all(graph_of: GraphOf) -> None:
    """Equal nodes are shared, unused ones are dropped."""

    def function(x: torch.Tensor) -> tuple[torch.Tensor]:
        torch.exp(x * 3)
        return (torch.sin(x) * torch.sin(x),)

    nodes = emit(graph_of(function, torch.ones(3)), name="graph").graph.node
    assert [node.op_type for node in nodes] == ["Sin", "Mul"]


def test_constants_are_computed_at_export_and_filled_tensors_stay_short(graph_of: GraphOf) -> None:
    """What depends on no input is folded; a tensor of zeros is not written out."""

    def function(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        steps = torch.arange(4, dtype=torch.float32) * 2 + 1
        return x + steps, torch.zeros(1000, 1000).index_add(
            0, torch.tensor([1]), x.new_ones(1, 1000)
        )

    model = emit(graph_of(function, torch.ones(4)), name="graph")
    assert len(model.SerializeToString()) < 8_000
    assert "Range" not in {node.op_type for node in model.graph.node}


def test_an_operator_without_translation_is_named_with_its_rewrite(graph_of: GraphOf) -> None:
    """The error tells the operator, the runtime and what to write."""
    with pytest.raises(
        UnsupportedModelError, match=r"aten\.kthvalue.*onnxruntime.*Rewrite: use amax"
    ):
        emit(graph_of(lambda x: tuple(torch.kthvalue(x, 2)), torch.ones(3)), name="graph")


def test_an_argument_without_translation_is_named(graph_of: GraphOf) -> None:
    """A known operator with an argument that has no counterpart says which."""
    with pytest.raises(UnsupportedModelError, match="several index tensors"):
        emit(
            graph_of(lambda x, i: (x[i, :, i],), torch.ones(2, 2, 2), torch.tensor([0, 1])),
            name="graph",
        )


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mlp", "cnn_strided"])
def test_torch_onnx_agrees(name: str, traced: dict[str, TracedGraph], tmp_path) -> None:
    """torch's own exporter is the oracle: the same traced graph gives the same numbers."""
    graph = traced[name]
    path = tmp_path / "oracle.onnx"
    program = torch.onnx.export(
        graph.graph_module, graph.example, dynamo=True, verbose=False, external_data=False
    )
    program.save(str(path))
    oracle = onnxruntime.InferenceSession(str(path))
    ours = onnxruntime.InferenceSession(emit(graph, name="train").SerializeToString())
    arrays = [value.numpy() for value in graph.example]
    expected = oracle.run(
        None, {i.name: a for i, a in zip(oracle.get_inputs(), arrays, strict=True)}
    )
    found = ours.run(None, {i.name: a for i, a in zip(ours.get_inputs(), arrays, strict=True)})
    for our, their in zip(found, expected, strict=True):
        np.testing.assert_allclose(our, their, rtol=1e-5, atol=1e-6)
    assert len(onnx.load(path).SerializeToString()) > len(emit(graph, name="t").SerializeToString())
