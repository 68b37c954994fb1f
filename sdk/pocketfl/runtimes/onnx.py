"""Plans on ONNX Runtime: one thread, no torch, nothing written and nothing sent."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from pocketfl.errors import PlanError, RuntimeUnavailableError, TrainingCancelledError
from pocketfl.runtimes.batches import Array
from pocketfl.runtimes.graphs import Graph, GraphRuntime, PlanContents, Signature, version_numbers

if TYPE_CHECKING:
    from types import ModuleType

    from onnxruntime import InferenceSession, RunOptions

TELEMETRY_SWITCH: Final = "ORT_DISABLE_TELEMETRY"
_FIRST_WITH_TELEMETRY: Final = (1, 29)

_DTYPES: Final = {
    "tensor(float)": "float32",
    "tensor(int64)": "int64",
    "tensor(bool)": "bool",
}


class OnnxRuntime(GraphRuntime):
    """A plan opened in ONNX Runtime.

    The graphs are ordinary inference graphs, so any build of ONNX Runtime trains them. The CPU provider
    is used with one thread: compact models gain nothing from more, and the other cores stay free.
    """

    name = "onnxruntime"

    def __init__(self, plan: PlanContents) -> None:
        self._library = load_library()
        self._run_options = self._library.RunOptions()
        super().__init__(plan)

    def _installed_version(self) -> str:
        return str(self._library.__version__)

    def cancel(self) -> bool:
        """End the run under way before its next operator; see :meth:`Runtime.cancel`."""
        self._run_options.terminate = True
        return True

    def _load(self, part: bytes, arrays: Mapping[str, Array]) -> Graph:
        library = self._library
        options = library.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        options.graph_optimization_level = library.GraphOptimizationLevel.ORT_ENABLE_ALL
        try:
            session = library.InferenceSession(part, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # The library's exceptions have no common base but this.
            raise PlanError(f"ONNX Runtime cannot load the part: {error}") from error
        names = [tensor.name for tensor in session.get_inputs()]
        if names != list(arrays):
            raise PlanError(
                f"the part does not fit the manifest: it takes {', '.join(names)}, not "
                f"{', '.join(arrays)}"
            )
        return _Session(session, arrays, self._run_options)


class _Session:
    """One session, bound once to the arrays that it reads and to those that it writes.

    Handing arrays over at every run would cost more than the step of a small model: the library looks
    each of them up, and allocates its outputs anew.
    """

    def __init__(
        self, session: InferenceSession, arrays: Mapping[str, Array], options: RunOptions
    ) -> None:
        self._session = session
        self._options = options
        self.inputs = _signature(session.get_inputs())
        self.outputs = _signature(session.get_outputs())
        # The library keeps addresses alone: these arrays must live as long as it.
        self._read = dict(arrays)
        self._written: list[Array] = []
        self._binding: Any = None

    def _bind(self) -> None:
        # At the first run, when it is known that the part fits the manifest.
        self._written = [np.zeros(shape, dtype) for dtype, shape in self.outputs]
        self._binding = self._session.io_binding()
        for name, array in self._read.items():
            self._binding.bind_input(*_place(name, array))
        for tensor, array in zip(self._session.get_outputs(), self._written, strict=True):
            self._binding.bind_output(*_place(tensor.name, array))

    def run(self) -> Sequence[Array]:
        if self._binding is None:
            self._bind()
        # What was cancelled before is over.
        self._options.terminate = False
        try:
            self._session.run_with_iobinding(self._binding, self._options)
        except Exception as error:  # The library's exceptions have no common base but this.
            if not self._options.terminate:
                raise
            raise TrainingCancelledError(
                "the runtime's call was cancelled; the parameters are as before it"
            ) from error
        return self._written

    def close(self) -> None:
        """Leave it to Python."""


def _place(name: str, array: Array) -> tuple[Any, ...]:
    """Return where an array lies, as the library wants to hear it."""
    return name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data


def load_library() -> ModuleType:
    """Import ONNX Runtime with its telemetry off.

    Official builds from 1.29 on report usage unless a variable of the environment is set before the
    library is loaded; it writes a file and sends events of its own otherwise.

    Raises
    ------
    RuntimeUnavailableError
        If it is not installed, or another module has loaded it with telemetry on.
    """
    loaded_before = "onnxruntime" in sys.modules
    already_off = os.environ.get(TELEMETRY_SWITCH) == "1"
    os.environ[TELEMETRY_SWITCH] = "1"
    try:
        import onnxruntime
    except ImportError as error:
        raise RuntimeUnavailableError(
            f"onnxruntime cannot be imported ({error}): pip install 'onnxruntime<1.29', or open the "
            "plan with another runtime"
        ) from error
    version = version_numbers(onnxruntime.__version__)
    if loaded_before and not already_off and version >= _FIRST_WITH_TELEMETRY:
        raise RuntimeUnavailableError(
            f"onnxruntime {onnxruntime.__version__} was imported before pocketfl, with its telemetry "
            f"on: set {TELEMETRY_SWITCH}=1 in the environment, or install onnxruntime<1.29"
        )
    library: ModuleType = onnxruntime
    return library


def _signature(tensors: Sequence[Any]) -> Signature:
    return tuple((_DTYPES.get(t.type, str(t.type)), tuple(t.shape)) for t in tensors)
