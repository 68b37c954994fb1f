"""One ONNX graph that trains many devices one after the other, made of the plan's own training step.

The step is the body of an ONNX ``Scan``: parameters are carried from batch to batch, and where a device
begins they are set back to the round's. So each device takes the very steps that it would take on a
phone, without Python between them and without padding one with few examples to the length of another.
"""

from __future__ import annotations

from typing import Final

import onnx
from onnx import TensorProto, helper

from pocketfl.plan.manifest import Manifest
from pocketfl.runtimes.batches import RANDOM, TARGET, WEIGHT
from pocketfl.runtimes.graphs import CLIP_NORM, LEARNING_RATE, PARAMETERS
from pocketfl.runtimes.optimizers import ANCHOR, BIAS_CORRECTION, updated_arrays

BEGINS: Final = "begins"
"""Whether a step is a device's first."""
START: Final = "start"
"""The parameters that every device starts from."""
ROWS: Final = "rows"
"""Which rows of the examples a step takes."""


def each(name: str) -> str:
    """Return the name of an input of the whole graph that has one element per step."""
    return f"each_{name}"


def everything(name: str) -> str:
    """Return the name of an input of the whole graph that has one row per example."""
    return f"all_{name}"


def chain_steps(step: bytes, manifest: Manifest) -> bytes:
    """Wrap a training step.

    Parameters
    ----------
    step : bytes
        The plan's training step for ONNX Runtime.
    manifest : Manifest
        Of the same plan.

    Returns
    -------
    bytes
        A graph that takes ``start`` (P,), for each input of the model and the target all examples by
        the name :func:`everything`, ``clip_norm``, and by the name :func:`each` for S steps: ``rows``
        (S, B), ``weight`` (S, B), ``learning_rate`` (S,), ``begins`` (S,), and where the step takes
        them ``random`` and ``bias_correction``. It returns the parameters after each step, (S, P).
    """
    model = onnx.load_model_from_string(step)
    graph = model.graph
    inputs = {value.name: value for value in graph.input}
    minimizer = manifest.required_training.minimizer
    carried = (PARAMETERS, *updated_arrays(minimizer))
    examples = (*(spec.name for spec in manifest.required_model.inputs), TARGET)
    by_step = [name for name in (WEIGHT, RANDOM, BIAS_CORRECTION, LEARNING_RATE) if name in inputs]

    before = []
    for name in carried:
        reset = START if name == PARAMETERS else "nothing"
        before.append(helper.make_node("Where", [BEGINS, reset, f"carried_{name}"], [name]))
    before += [
        helper.make_node("Gather", [everything(name), ROWS], [name], axis=0) for name in examples
    ]
    if ANCHOR in inputs:
        before.append(helper.make_node("Identity", [START], [ANCHOR]))
    # A value that leaves a body twice needs two names.
    results = [value.name for value in graph.output]
    moved = "moved"
    after = [helper.make_node("Identity", [results[0]], [moved])]

    batch = manifest.required_model.batch_size
    body = helper.make_graph(
        [*before, *graph.node, *after],
        "step",
        [
            *(_renamed(inputs[name], f"carried_{name}") for name in carried),
            helper.make_tensor_value_info(ROWS, TensorProto.INT64, [batch]),
            helper.make_tensor_value_info(BEGINS, TensorProto.BOOL, []),
            *(inputs[name] for name in by_step),
        ],
        [*graph.output[: len(carried)], _renamed(graph.output[0], moved)],
        initializer=[
            *graph.initializer,
            helper.make_tensor("nothing", TensorProto.FLOAT, [], [0.0]),
        ],
    )
    nothing = helper.make_tensor("zeros_value", TensorProto.FLOAT, [1], [0.0])
    length = helper.make_node("Shape", [START], ["length"])
    zeros = helper.make_node("ConstantOfShape", ["length"], ["zeros"], value=nothing)
    sequences = [ROWS, BEGINS, *by_step]
    scan = helper.make_node(
        "Scan",
        [START, *("zeros" for _ in carried[1:]), *map(each, sequences)],
        [*(f"last_{name}" for name in carried), "parameters_after"],
        body=body,
        num_scan_inputs=len(sequences),
    )
    outer = helper.make_graph(
        [length, zeros, scan],
        "devices",
        [
            _renamed(inputs[PARAMETERS], START),
            *(_with_rows(inputs[name]) for name in examples),
            helper.make_tensor_value_info(each(ROWS), TensorProto.INT64, ["steps", batch]),
            helper.make_tensor_value_info(each(BEGINS), TensorProto.BOOL, ["steps"]),
            *(_with_steps(inputs[name]) for name in by_step),
            inputs[CLIP_NORM],
        ],
        [
            helper.make_tensor_value_info(
                "parameters_after",
                TensorProto.FLOAT,
                ["steps", manifest.required_model.parameter_count],
            )
        ],
    )
    chained = helper.make_model(
        outer, opset_imports=list(model.opset_import), ir_version=model.ir_version
    )
    chained.functions.extend(model.functions)
    data: bytes = chained.SerializeToString()
    return data


def _renamed(value: onnx.ValueInfoProto, name: str) -> onnx.ValueInfoProto:
    copy = onnx.ValueInfoProto()
    copy.CopyFrom(value)
    copy.name = name
    return copy


def _dimensions(value: onnx.ValueInfoProto) -> list[int]:
    return [axis.dim_value for axis in value.type.tensor_type.shape.dim]


def _with_rows(value: onnx.ValueInfoProto) -> onnx.ValueInfoProto:
    kind = value.type.tensor_type.elem_type
    return helper.make_tensor_value_info(
        everything(value.name), kind, ["examples", *_dimensions(value)[1:]]
    )


def _with_steps(value: onnx.ValueInfoProto) -> onnx.ValueInfoProto:
    kind = value.type.tensor_type.elem_type
    return helper.make_tensor_value_info(each(value.name), kind, ["steps", *_dimensions(value)])
