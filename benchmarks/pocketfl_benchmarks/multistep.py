"""``python -m pocketfl_benchmarks.multistep``: ten training steps in one call, against ten calls.

An ONNX ``Scan`` around the plan's own training step takes a stack of batches and carries the parameters
from one to the next. Both sides do what a device would: the calls with all their checks and copies, the
Scan with stacking its batches. Both take turns; processor time is measured.
"""

from __future__ import annotations

import json
import statistics
import time
from typing import Any, Final

import numpy as np
import onnx
from onnx import TensorProto, helper

from pocketfl.benchmark.device import made_up_batch
from pocketfl.runtimes import open_runtime
from pocketfl.runtimes.batches import WEIGHT
from pocketfl.runtimes.graphs import CLIP_NORM, LEARNING_RATE, PARAMETERS
from pocketfl.runtimes.onnx import load_library
from pocketfl_benchmarks.models import MODELS
from pocketfl_benchmarks.step import one_thread
from pocketfl_export.backends import BACK_ENDS
from pocketfl_export.gate import CandidatePlan
from pocketfl_export.problem import TrainingProblem, make_problem

STEPS: Final = 10
"""Of one call of the Scan."""
SMALL: Final = ("mlp", "click")
"""Models of which a step is short enough for the call to matter."""
REPEATS: Final = 40


def chain(step: bytes, steps: int) -> bytes:
    """Wrap a training step of plain SGD in a Scan.

    Parameters
    ----------
    step : bytes
        The plan's training step for ONNX Runtime.
    steps : int
        Batches of one call.

    Returns
    -------
    bytes
        A graph that takes ``start``, for each input of a batch a stack named ``each_...``, learning
        rate and clip norm; gives the last parameters, and loss and gradient norm of each step.
    """
    model = onnx.load_model_from_string(step)
    graph = model.graph
    held = {PARAMETERS, LEARNING_RATE, CLIP_NORM}
    batch = [value for value in graph.input if value.name not in held]
    body = helper.make_graph(
        list(graph.node),
        "step",
        [graph.input[0], *batch],
        list(graph.output),
        initializer=list(graph.initializer),
    )
    scan = helper.make_node(
        "Scan",
        ["start", *(f"each_{value.name}" for value in batch)],
        ["last", "losses", "norms"],
        body=body,
        num_scan_inputs=len(batch),
    )
    count = graph.input[0].type.tensor_type.shape.dim[0].dim_value
    outer = helper.make_graph(
        [scan],
        "steps",
        [
            helper.make_tensor_value_info("start", TensorProto.FLOAT, [count]),
            *(_stacked(value, steps) for value in batch),
            *(value for value in graph.input if value.name in {LEARNING_RATE, CLIP_NORM}),
        ],
        [
            helper.make_tensor_value_info("last", TensorProto.FLOAT, [count]),
            helper.make_tensor_value_info("losses", TensorProto.FLOAT, [steps]),
            helper.make_tensor_value_info("norms", TensorProto.FLOAT, [steps]),
        ],
    )
    wrapped = helper.make_model(
        outer, opset_imports=model.opset_import, ir_version=model.ir_version
    )
    return bytes(wrapped.SerializeToString())


def _stacked(value: onnx.ValueInfoProto, steps: int) -> onnx.ValueInfoProto:
    tensor = value.type.tensor_type
    shape = [steps, *(dim.dim_value for dim in tensor.shape.dim)]
    return helper.make_tensor_value_info(f"each_{value.name}", tensor.elem_type, shape)


def measure(problem: TrainingProblem, *, repeats: int = REPEATS) -> dict[str, float]:
    """Measure one model.

    Returns
    -------
    dict
        ``calls_us`` and ``scan_us``, medians of the processor's microseconds per step; ``ratio`` of the
        two; ``max_difference`` of a parameter after :data:`STEPS` steps of both.
    """
    back_end = BACK_ENDS["onnxruntime"]
    parts = {back_end.part_name(k): v for k, v in back_end.export_parts(problem).items()}
    plan = CandidatePlan(problem, back_end, parts)
    library = load_library()
    options = library.SessionOptions()
    options.intra_op_num_threads = 1
    session = library.InferenceSession(
        chain(parts[back_end.part_name("train")], STEPS), options, ["CPUExecutionProvider"]
    )
    batch = made_up_batch(problem.spec)
    whole = {**batch, WEIGHT: np.ones(problem.batch_size, np.float32)}
    rates = {LEARNING_RATE: np.array(0.01, np.float32), CLIP_NORM: np.array(1.0, np.float32)}
    runtime = open_runtime(plan, back_end.name)

    def call() -> Any:
        runtime.set_parameters(plan.initial_parameters())
        for _ in range(STEPS):
            runtime.train_step(batch, learning_rate=0.01, clip_norm=1.0)
        return runtime.parameters()

    def scan() -> Any:
        stacks = {f"each_{name}": np.stack([value] * STEPS) for name, value in whole.items()}
        return session.run(None, {"start": plan.initial_parameters(), **stacks, **rates})[0]

    difference = float(np.abs(call() - scan()).max())
    times: dict[str, list[float]] = {"calls": [], "scan": []}
    for _ in range(repeats):
        for name, way in (("calls", call), ("scan", scan)):
            began = time.process_time()
            way()
            times[name].append(1e6 * (time.process_time() - began) / STEPS)
    runtime.close()
    calls, scanned = (statistics.median(times[name]) for name in ("calls", "scan"))
    return {
        "calls_us": calls,
        "scan_us": scanned,
        "ratio": scanned / calls,
        "max_difference": difference,
    }


def main() -> None:
    """Print the figures of the small models as JSON."""
    with one_thread():
        print(
            json.dumps({name: measure(make_problem(*MODELS[name]())) for name in SMALL}, indent=2)
        )


if __name__ == "__main__":
    main()
