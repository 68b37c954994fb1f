"""A call that runs can be ended from another thread, and leaves the runtime usable."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from pocketfl.conditions import ConditionSpec, ConditionWatch, Signals
from pocketfl.errors import TrainingCancelledError
from pocketfl.runtimes import open_runtime
from pocketfl.runtimes.onnx import _Session

from .conftest import BATCH, Case

SIZE, OPERATORS = 256, 20_000


def long_program() -> bytes:
    """A chain of matrix products that takes minutes."""
    nodes = [helper.make_node("MatMul", ["x", "x"], ["y0"])]
    nodes += [
        helper.make_node("MatMul", [f"y{i}", "x"], [f"y{i + 1}"]) for i in range(OPERATORS - 1)
    ]
    tensor = [SIZE, SIZE]
    graph = helper.make_graph(
        nodes,
        "long",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, tensor)],
        [helper.make_tensor_value_info(f"y{OPERATORS - 1}", TensorProto.FLOAT, tensor)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    assert isinstance(model, onnx.ModelProto)
    return model.SerializeToString()


class EmptyBattery:
    """A device that should not train now."""

    def read(self) -> Signals:
        return Signals(battery_level=0.1)


def test_a_breach_ends_a_long_step_of_onnx_runtime(image_case: Case) -> None:
    """The watch's hard stop ends a program of minutes, and the next step is not affected."""
    runtime = open_runtime(image_case.plan, "onnxruntime")
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = 1
    settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    settings.log_severity_level = 4
    session = onnxruntime.InferenceSession(
        long_program(), settings, providers=["CPUExecutionProvider"]
    )
    graph = _Session(session, {"x": np.eye(SIZE, dtype=np.float32)}, runtime._run_options)
    watch = ConditionWatch(
        EmptyBattery(),
        ConditionSpec(),
        every_seconds=0.05,
        grace_seconds=0.05,
        on_hard_stop=runtime.cancel,
    )
    with watch, pytest.raises(TrainingCancelledError, match="cancelled"):
        graph.run()
    assert watch.hard_stops >= 1
    assert watch.reasons[0].condition == "battery"
    step = runtime.train_step(image_case.draw(BATCH, 0), learning_rate=0.1, clip_norm=1.0)
    assert np.isfinite(step.loss)
    runtime.close()


def test_cancelling_between_calls_changes_nothing(case: Case, runtime_name: str) -> None:
    """Steps after a cancel that found nothing to end are bit for bit those without one."""
    results = []
    for cancels in (False, True):
        runtime = open_runtime(case.plan, runtime_name)
        for seed in range(3):
            if cancels:
                assert runtime.cancel() is (runtime_name == "onnxruntime")
            runtime.train_step(case.draw(BATCH, seed), learning_rate=0.1, clip_norm=1.0)
        results.append(runtime.parameters())
        runtime.close()
    np.testing.assert_array_equal(*results)


def test_a_cancelled_step_leaves_the_parameters(image_case: Case) -> None:
    """What a cancelled step had computed by then is thrown away as a whole."""
    runtime = open_runtime(image_case.plan, "onnxruntime")
    batch = image_case.draw(BATCH, 0)
    runtime.train_step(batch, learning_rate=0.1, clip_norm=1.0)
    before = runtime.parameters()
    graph = runtime._graphs["train"]
    session = graph._session

    class CancelledAtOnce:
        def run_with_iobinding(self, *arguments: object) -> None:
            runtime.cancel()
            session.run_with_iobinding(*arguments)

    graph._session = CancelledAtOnce()
    with pytest.raises(TrainingCancelledError):
        runtime.train_step(batch, learning_rate=0.1, clip_norm=1.0)
    np.testing.assert_array_equal(runtime.parameters(), before)
    graph._session = session
    runtime.train_step(batch, learning_rate=0.1, clip_norm=1.0)
    assert not np.array_equal(runtime.parameters(), before)
    runtime.close()
