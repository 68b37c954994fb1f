"""Plans on ONNX Runtime's library for Android, through pyjnius."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, Final

from pocketfl.errors import PlanError, TrainingCancelledError
from pocketfl.java import Java
from pocketfl.runtimes.android import AndroidRuntime, load_classes
from pocketfl.runtimes.batches import Array
from pocketfl.runtimes.graphs import (
    LEARNING_RATE,
    PARAMETERS,
    Graph,
    PlanContents,
    Signature,
)
from pocketfl.runtimes.interface import FloatVector
from pocketfl.runtimes.java_buffers import SharedArray
from pocketfl.runtimes.onnx import TELEMETRY_SWITCH

_DTYPES: Final = {"FLOAT": "float32", "INT64": "int64", "BOOL": "bool"}
_TYPES: Final = {dtype: name for name, dtype in _DTYPES.items()}


class AndroidOnnxRuntime(AndroidRuntime["_Vector"]):
    """A plan opened in ONNX Runtime on Android.

    The CPU provider is used with one thread, as on a desktop.
    """

    name = "onnxruntime"

    def __init__(self, plan: PlanContents) -> None:
        self._library = load_library()
        self._call = _Call(self._library)
        super().__init__(plan)

    def _installed_version(self) -> str:
        return str(self._library.environment.getVersion())

    def cancel(self) -> bool:
        """End the run under way before its next operator; see :meth:`Runtime.cancel`."""
        return self._call.cancel()

    def close(self) -> None:
        """Free the runtime's memory; further calls raise ``RuntimeError``."""
        super().close()
        self._call.close()

    def _new_vector(self, length: int) -> _Vector:
        return _Vector(self._library, length)

    def _load(self, part: bytes, arrays: Mapping[str, Array]) -> Graph:
        library = self._library
        with library.session_options() as options:
            try:
                session = library.environment.createSession(
                    library.direct_bytes(part), options.object
                )
            except library.java.exception as error:
                raise PlanError(f"ONNX Runtime cannot load the part: {error}") from error
        names = [str(name) for name in session.getInputNames().toArray()]
        if names != list(arrays):
            session.close()
            raise PlanError(
                f"the part does not fit the manifest: it takes {', '.join(names)}, not "
                f"{', '.join(arrays)}"
            )
        return _Session(self, session, arrays)

    def _updated_vectors(self) -> tuple[_Vector, ...]:
        """Return what the first outputs of a training step are, in order."""
        return tuple(map(self.vector, (PARAMETERS, *self._updated)))


class _Session:
    """One session with the tensors that it reads and writes every time."""

    def __init__(
        self, runtime: AndroidOnnxRuntime, session: Any, arrays: Mapping[str, Array]
    ) -> None:
        self._runtime = runtime
        self._session = session
        self._arrays = arrays
        self._outputs = [str(name) for name in session.getOutputNames().toArray()]
        self._written = runtime._updated_vectors() if LEARNING_RATE in arrays else ()
        self.inputs = runtime._library.signature(session.getInputInfo())
        self.outputs = runtime._library.signature(session.getOutputInfo())
        self._vectors: dict[str, _Vector] = {}
        self._given: list[tuple[Array, _Tensor]] = []
        self._results: list[_Tensor] = []
        self._feed: Any = None
        self._pinned: Any = None

    def run(self) -> Sequence[Any]:
        if self._feed is None:
            self._bind()
        for array, tensor in self._given:
            tensor.memory.write(array)
        for name, vector in self._vectors.items():
            self._feed.put(name, vector.current.object)
        for name, vector in zip(self._outputs, self._written, strict=False):
            self._pinned.put(name, vector.spare.object)
        self._runtime._call.run(self._session, self._feed, self._pinned)
        # What a training step makes of a vector is in the vector's spare half already.
        return [*self._written, *(tensor.memory.read() for tensor in self._results)]

    def close(self) -> None:
        for tensor in (*(tensor for _, tensor in self._given), *self._results):
            tensor.object.close()
        self._given.clear()
        self._results.clear()
        self._session.close()

    def _bind(self) -> None:
        # After the signatures were checked, so that no memory is taken for a part that does not fit.
        library = self._runtime._library
        self._feed = library.hash_map()
        self._pinned = library.hash_map()
        for name, array in self._arrays.items():
            if self._runtime.is_resident(name):
                self._vectors[name] = self._runtime.vector(name)
                continue
            tensor = library.tensor(array.dtype.name, array.shape)
            self._given.append((array, tensor))
            self._feed.put(name, tensor.object)
        first = len(self._written)
        for name, (dtype, shape) in zip(self._outputs[first:], self.outputs[first:], strict=True):
            tensor = library.tensor(dtype, shape)
            self._results.append(tensor)
            self._pinned.put(name, tensor.object)


class _Tensor:
    """A tensor of ONNX Runtime and the memory it is made of."""

    def __init__(self, memory: SharedArray, tensor: Any) -> None:
        self.memory = memory
        self.object = tensor


class _Vector:
    """A vector, and as much memory again for what a step makes of it."""

    def __init__(self, library: _Library, length: int) -> None:
        self.current = library.tensor("float32", (length,))
        self.spare = library.tensor("float32", (length,))

    def write(self, vector: FloatVector) -> None:
        self.current.memory.write(vector)

    def read(self) -> FloatVector:
        return self.current.memory.read().astype("float32")

    def keep(self, output: Any) -> None:
        """Make what the last step wrote the present vector."""
        self.current, self.spare = self.spare, self.current

    def close(self) -> None:
        self.current.object.close()
        self.spare.object.close()


class _Call:
    """What all runs of one opened plan share: whether the one under way was cancelled."""

    def __init__(self, library: _Library) -> None:
        self._exception = library.java.exception
        self._options = library.run_options()
        self._no_names = library.no_names
        self._cancelled = False
        self._open = True

    def cancel(self) -> bool:
        if self._open:
            self._cancelled = True
            self._options.setTerminate(True)
        return True

    def run(self, session: Any, feed: Any, pinned: Any) -> None:
        # What was cancelled before is over.
        self._cancelled = False
        self._options.setTerminate(False)
        try:
            session.run(feed, self._no_names, pinned, self._options).close()
        except self._exception as error:
            if not self._cancelled:
                raise
            raise TrainingCancelledError(
                "the runtime's call was cancelled; the parameters are as before it"
            ) from error

    def close(self) -> None:
        if self._open:
            self._open = False
            self._options.close()


class _Options:
    """Session options that are closed when the session is made."""

    def __init__(self, options: Any) -> None:
        self.object = options

    def __enter__(self) -> _Options:
        return self

    def __exit__(self, *error: object) -> None:
        self.object.close()


class _Library:
    """The classes of ``ai.onnxruntime`` that are used here, found once."""

    def __init__(self, java: Java) -> None:
        find = java.autoclass
        self.java = java
        self._find = find
        self._tensor = find("ai.onnxruntime.OnnxTensor")
        self._types = find("ai.onnxruntime.OnnxJavaType")
        self._options = find("ai.onnxruntime.OrtSession$SessionOptions")
        self._levels = find("ai.onnxruntime.OrtSession$SessionOptions$OptLevel")
        self._logging = find("ai.onnxruntime.OrtLoggingLevel")
        self.run_options = find("ai.onnxruntime.OrtSession$RunOptions")
        self.hash_map = find("java.util.HashMap")
        self.no_names = find("java.util.Collections").emptySet()
        self.environment = find("ai.onnxruntime.OrtEnvironment").getEnvironment()
        # For events that are no usage reports; those of 1.29 and later obey the variable alone.
        self.environment.setTelemetry(False)

    def session_options(self) -> _Options:
        options = self._options()
        options.setIntraOpNumThreads(1)
        options.setInterOpNumThreads(1)
        options.setSessionLogLevel(self._logging.ORT_LOGGING_LEVEL_ERROR)
        options.setOptimizationLevel(self._levels.ALL_OPT)
        return _Options(options)

    def direct_bytes(self, data: bytes) -> Any:
        memory = self._find("java.nio.ByteBuffer").allocateDirect(len(data))
        memory.put(self._find("java.nio.ByteBuffer").wrap(data))
        memory.clear()
        return memory

    def tensor(self, dtype: str, shape: Sequence[int]) -> _Tensor:
        memory = SharedArray(self._find, dtype, shape)
        memory.buffer.clear()
        tensor = self._tensor.createTensor(
            self.environment,
            memory.buffer,
            [int(size) for size in shape],
            getattr(self._types, _TYPES[dtype]),
        )
        return _Tensor(memory, tensor)

    def signature(self, information: Any) -> Signature:
        found = []
        for node in information.values().toArray():
            info = self.java.cast(
                "ai.onnxruntime.TensorInfo",
                self.java.cast("ai.onnxruntime.NodeInfo", node).getInfo(),
            )
            name = str(info.type.toString())
            found.append((_DTYPES.get(name, name), tuple(int(size) for size in info.getShape())))
        return tuple(found)


def load_library() -> _Library:
    """Load ONNX Runtime with its telemetry off.

    Raises
    ------
    RuntimeUnavailableError
        If pyjnius or the library is not in the app.
    """
    # The environment that native code reads: what android.system.Os.setenv would set too.
    os.environ[TELEMETRY_SWITCH] = "1"
    return load_classes(
        _Library,
        runtime="ONNX Runtime",
        dependency="com.microsoft.onnxruntime:onnxruntime-android below 1.29",
    )
