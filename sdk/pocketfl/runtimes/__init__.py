"""Opening a plan in a mobile runtime."""

from __future__ import annotations

from pocketfl.errors import RuntimeUnavailableError
from pocketfl.java import on_android
from pocketfl.plan.manifest import RUNTIME_NAMES
from pocketfl.runtimes.graphs import PlanContents
from pocketfl.runtimes.interface import Batch, EvaluationResult, FloatVector, Runtime, StepResult

__all__ = [
    "Batch",
    "EvaluationResult",
    "FloatVector",
    "PlanContents",
    "Runtime",
    "StepResult",
    "open_runtime",
]


def open_runtime(plan: PlanContents, name: str) -> Runtime:
    """Open a plan in a runtime; it starts with the plan's initial parameters.

    On Android these are the libraries that the app bundles, elsewhere Python packages; ExecuTorch comes
    without torch where ``pocketfl runtimes build-executorch`` has run. Nothing is loaded yet: each
    graph is loaded when it is first used, so a device that only trains never pays for inference.

    Parameters
    ----------
    plan : Plan
        A verified plan.
    name : {"onnxruntime", "executorch"}
        The runtime.

    Returns
    -------
    Runtime
        Close it when done.

    Raises
    ------
    RuntimeUnavailableError
        If there is no such runtime, it is not installed, or the plan has no parts for it.
    PlanUnsupportedError
        If the installed runtime is older than the plan needs.
    """
    # Imported here: each pulls in its library, and a device has only one of them.
    if name == "onnxruntime":
        if on_android():
            from pocketfl.runtimes.android_onnx import AndroidOnnxRuntime

            return AndroidOnnxRuntime(plan)
        from pocketfl.runtimes.onnx import OnnxRuntime

        return OnnxRuntime(plan)
    if name == "executorch":
        if on_android():
            from pocketfl.runtimes.android_executorch import AndroidExecutorchRuntime

            return AndroidExecutorchRuntime(plan)
        from pocketfl.runtimes.executorch_build import find_library

        library = find_library()
        if library is not None:
            from pocketfl.runtimes.executorch_native import NativeExecutorchRuntime

            return NativeExecutorchRuntime(plan, library)
        from pocketfl.runtimes.executorch import ExecutorchRuntime

        return ExecutorchRuntime(plan)
    raise RuntimeUnavailableError(
        f"there is no runtime {name!r}; known: {', '.join(RUNTIME_NAMES)}"
    )
