"""Android's runtimes beside the packages, in the process that tests/android/test_jvm.py starts."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import numpy as np
import pytest

from pocketfl.errors import TrainingCancelledError
from pocketfl.java import on_android
from pocketfl.runtimes import Runtime, open_runtime
from pocketfl.runtimes.executorch import ExecutorchRuntime
from pocketfl.runtimes.onnx import OnnxRuntime

from .conftest import BATCH, Case

pytestmark = pytest.mark.skipif(not on_android(), reason="needs a process that looks like Android")

PACKAGES = {"onnxruntime": OnnxRuntime, "executorch": ExecutorchRuntime}
STEPS = 25


def train(runtime: Runtime, case: Case) -> list[bytes]:
    """Return the bits of all that a few rounds of training, evaluation and prediction give."""
    seen = []
    for seed in range(STEPS):
        batch = case.draw(1 + seed % BATCH, seed)
        step = runtime.train_step(batch, learning_rate=0.05, clip_norm=0.5 + seed)
        seen.append(np.array([step.loss, step.gradient_norm]).tobytes())
        seen.append(runtime.parameters().tobytes())
    batch = case.draw(BATCH, 99)
    evaluated = runtime.evaluate(batch)
    seen.append(np.float64(evaluated.loss).tobytes())
    inputs = {name: value for name, value in batch.items() if name != "target"}
    for outputs in (evaluated.outputs, runtime.predict(inputs)):
        seen += [outputs[name].tobytes() for name in sorted(outputs)]
    return seen


def test_results_are_the_same_bits_as_the_packages(case: Case, runtime_name: str) -> None:
    """Losses, norms, parameters and outputs of 25 steps equal those of the Python package exactly."""
    android, package = open_runtime(case.plan, runtime_name), PACKAGES[runtime_name](case.plan)
    assert type(android) is not type(package)
    assert train(android, case) == train(package, case)
    android.close()
    package.close()


def test_parameters_cross_once_a_round(case: Case, runtime_name: str) -> None:
    """Ten steps write no vector of parameters to Java and read none."""
    runtime = open_runtime(case.plan, runtime_name)
    size = runtime.parameters().nbytes
    crossed = []

    def counted(method, array):
        def call(*arguments):
            if array._bytes == size:
                crossed.append(method.__name__)
            return method(*arguments)

        return call

    runtime.set_parameters(runtime.parameters())
    runtime.train_step(case.draw(BATCH, 0), learning_rate=0.1, clip_norm=1.0)
    vector = runtime.vector("parameters")
    held = (
        [vector._memory]
        if runtime_name == "executorch"
        else [vector.current.memory, vector.spare.memory]
    )
    for memory in held:
        memory.write = counted(memory.write, memory)
        memory.read = counted(memory.read, memory)
    for seed in range(10):
        runtime.train_step(case.draw(BATCH, seed), learning_rate=0.1, clip_norm=1.0)
    assert crossed == []
    runtime.parameters()
    assert crossed == ["read"]
    runtime.close()


def test_a_cancelled_step_leaves_the_parameters(case: Case) -> None:
    """What ONNX Runtime had computed by then is thrown away, and the next step is not affected."""
    runtime = open_runtime(case.plan, "onnxruntime")
    batch = case.draw(BATCH, 0)
    runtime.train_step(batch, learning_rate=0.1, clip_norm=1.0)
    before = runtime.parameters()
    session = runtime._graphs["train"]._session

    class CancelledAtOnce:
        def run(self, *arguments: object) -> object:
            runtime.cancel()
            return session.run(*arguments)

    runtime._graphs["train"]._session = CancelledAtOnce()
    with pytest.raises(TrainingCancelledError):
        runtime.train_step(batch, learning_rate=0.1, clip_norm=1.0)
    np.testing.assert_array_equal(runtime.parameters(), before)
    runtime._graphs["train"]._session = session
    runtime.train_step(batch, learning_rate=0.1, clip_norm=1.0)
    assert not np.array_equal(runtime.parameters(), before)
    runtime.close()


def test_telemetry_is_off_before_the_library_is_loaded(image_case: Case) -> None:
    """The switch is in the environment that native code reads, and no socket is open afterwards."""
    open_runtime(image_case.plan, "onnxruntime").close()
    assert os.environ["ORT_DISABLE_TELEMETRY"] == "1"
    links = [str(link.readlink()) for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
    assert links
    assert not [link for link in links if link.startswith("socket:")]


def test_no_program_is_left_behind(image_case: Case) -> None:
    """ExecuTorch reads programs from files; none is there once it is loaded."""
    runtime = open_runtime(image_case.plan, "executorch")
    runtime.train_step(image_case.draw(BATCH, 0), learning_rate=0.1, clip_norm=1.0)
    assert list(Path(tempfile.gettempdir()).glob("pocketfl-*.pte")) == []
    runtime.close()
