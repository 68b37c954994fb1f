"""From an ATen graph to an ONNX model: opset 17, IR version 8, static shapes.

The oldest runtimes in the field set these two numbers; nothing here needs newer ones.
"""

from __future__ import annotations

import operator

import onnx
from onnx import helper
from torch import fx

from pocketfl.plan.models import TensorSpec
from pocketfl_export.errors import UnsupportedModelError
from pocketfl_export.onnx.builder import GraphBuilder
from pocketfl_export.onnx.operators import TRANSLATORS
from pocketfl_export.onnx.registry import Call, Untranslatable, Value
from pocketfl_export.rewrites import rewrite_for
from pocketfl_export.scopes import SCOPE
from pocketfl_export.tracing import TracedGraph

OPSET = 17
IR_VERSION = 8

_TYPES = {
    "float32": onnx.TensorProto.FLOAT,
    "int64": onnx.TensorProto.INT64,
    "bool": onnx.TensorProto.BOOL,
}


def emit(traced: TracedGraph, *, name: str) -> onnx.ModelProto:
    """Translate a traced graph.

    Parameters
    ----------
    traced : TracedGraph
        From :func:`pocketfl_export.tracing.trace_problem` with the ONNX table.
    name : str
        Name of the graph.

    Returns
    -------
    onnx.ModelProto
        Checked by ``onnx.checker`` with shape inference; the same graph gives the same bytes.

    Raises
    ------
    UnsupportedModelError
        Naming the operator without translation.
    """
    input_names = [spec.name for spec in traced.input_specs]
    output_names = _output_names(traced, input_names)
    builder = GraphBuilder([*input_names, *output_names])
    values: dict[fx.Node, Value] = {}
    inputs = iter(input_names)
    results: list[str] = []
    for node in traced.graph_module.graph.nodes:
        builder.scope = node.meta.get(SCOPE, builder.scope)
        if node.op == "placeholder":
            values[node] = next(inputs)
        elif node.op == "get_attr":
            constant = getattr(traced.graph_module, str(node.target))
            values[node] = builder.constant(constant.detach().cpu().numpy())
        elif node.op == "output":
            results = [str(values[result]) for result in node.args[0]]
        elif node.target is operator.getitem:
            several = values[node.args[0]]
            values[node] = several[node.args[1]]
        else:
            values[node] = _translate(builder, node, values)
    graph = builder.finish(
        name,
        inputs=[_value_info(n, s) for n, s in zip(input_names, traced.input_specs, strict=True)],
        outputs=[_value_info(n, s) for n, s in zip(output_names, traced.output_specs, strict=True)],
        values=results,
    )
    model = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="pocketfl",
    )
    onnx.checker.check_model(model, full_check=True)
    return model


def _translate(builder: GraphBuilder, node: fx.Node, values: dict[fx.Node, Value]) -> Value:
    translator = TRANSLATORS.get(node.target)
    if translator is None:
        raise UnsupportedModelError(
            operator=str(node.target),
            rewrite=rewrite_for(str(node.target)),
            reason="it has no translation to ONNX",
            runtime="onnxruntime",
        )
    try:
        return translator(Call(builder, node, values))
    except Untranslatable as error:
        raise UnsupportedModelError(
            operator=str(node.target),
            rewrite=rewrite_for(str(node.target)),
            reason=str(error),
            runtime="onnxruntime",
        ) from None


def _output_names(traced: TracedGraph, input_names: list[str]) -> list[str]:
    """Outputs are addressed by position; one that has an input's name gets another."""
    names: list[str] = []
    for spec in traced.output_specs:
        name = spec.name
        while name in input_names or name in names:
            name = f"new_{name}"
        names.append(name)
    return names


def _value_info(name: str, spec: TensorSpec) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, _TYPES[spec.dtype], list(spec.shape))
