"""Plans on ExecuTorch's library for Android, through pyjnius."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from pocketfl.errors import PlanError, PlanUnsupportedError, RuntimeUnavailableError
from pocketfl.java import Java, manifest_value
from pocketfl.runtimes.android import AndroidRuntime, load_classes
from pocketfl.runtimes.batches import Array
from pocketfl.runtimes.graphs import LEARNING_RATE, Graph, PlanContents, Signature
from pocketfl.runtimes.interface import FloatVector
from pocketfl.runtimes.java_buffers import SharedArray
from pocketfl.runtimes.programs import read_signatures

VERSION_NAME: Final = "org.pocketfl.executorch"
"""Name of the ``meta-data`` in the app's manifest that tells ExecuTorch's version."""

_METHOD: Final = "forward"


class AndroidExecutorchRuntime(AndroidRuntime["_Vector"]):
    """A plan opened in ExecuTorch on Android, with one thread.

    ExecuTorch loads a program from a file only: each part is in the app's cache folder while it is
    loaded. Its Java interface has no tensors of booleans: they go in as bytes, and a model that gives
    them is for ONNX Runtime.
    """

    name = "executorch"

    def __init__(self, plan: PlanContents) -> None:
        self._library = load_library()
        super().__init__(plan)

    def _installed_version(self) -> str:
        version = manifest_value(self._library.java, VERSION_NAME)
        if version is None:
            raise RuntimeUnavailableError(
                "ExecuTorch's library does not tell its version: name it in the app's manifest, "
                f'<meta-data android:name="{VERSION_NAME}" android:value="1.5.1" />'
            )
        return version

    def cancel(self) -> bool:
        """Return False: a program that runs cannot be interrupted, it ends after its one batch."""
        return False

    def _new_vector(self, length: int) -> _Vector:
        return _Vector(self._library, length)

    def _load(self, part: bytes, arrays: Mapping[str, Array]) -> Graph:
        try:
            signatures = read_signatures(part, _METHOD)
        except PlanError as error:
            raise PlanError(f"ExecuTorch cannot load the part: {error}") from error
        if any(dtype == "boolean" for dtype, _ in (*signatures[0], *signatures[1])):
            raise PlanUnsupportedError(
                "the part takes or gives tensors of booleans, which ExecuTorch's library for Android "
                "has not: export the plan anew, or open it with onnxruntime"
            )
        try:
            module = self._library.load(part)
        except self._library.java.exception as error:
            raise PlanError(f"ExecuTorch cannot load the part: {error}") from error
        return _Method(self, module, arrays, signatures)


class _Method:
    """One loaded program, with the tensors that it reads every time."""

    def __init__(
        self,
        runtime: AndroidExecutorchRuntime,
        module: Any,
        arrays: Mapping[str, Array],
        signatures: tuple[Signature, Signature],
    ) -> None:
        self.inputs, self.outputs = signatures
        self._runtime = runtime
        self._module = module
        self._arrays = arrays
        self._kept = runtime.vector_outputs if LEARNING_RATE in arrays else 0
        self._given: list[tuple[Array, SharedArray]] = []
        self._values: list[Any] = []
        self._results: list[SharedArray] = []

    def run(self) -> Sequence[Any]:
        if not self._values:
            self._bind()
        for array, memory in self._given:
            memory.write(array)
        outputs = self._module.execute(_METHOD, *self._values)
        tensors = [output.toTensor() for output in outputs]
        results: list[Any] = tensors[: self._kept]
        for memory, tensor in zip(self._results, tensors[self._kept :], strict=True):
            tensor.copyDataInto(memory.elements())
            results.append(memory.read())
        return results

    def close(self) -> None:
        self._values.clear()
        self._module.close()

    def _bind(self) -> None:
        # After the signatures were checked, so that no memory is taken for a part that does not fit.
        library = self._runtime._library
        for name, array in self._arrays.items():
            if self._runtime.is_resident(name):
                self._values.append(self._runtime.vector(name).value)
                continue
            memory = library.shared(array.dtype.name, array.shape)
            self._given.append((array, memory))
            self._values.append(library.value(memory, array.shape))
        self._results = [
            library.shared(dtype, shape) for dtype, shape in self.outputs[self._kept :]
        ]


class _Vector:
    """A vector, as a value that programs take."""

    def __init__(self, library: _Library, length: int) -> None:
        self._memory = library.shared("float32", (length,))
        self.value = library.value(self._memory, (length,))

    def write(self, vector: FloatVector) -> None:
        self._memory.write(vector)

    def read(self) -> FloatVector:
        return self._memory.read().astype("float32")

    def keep(self, output: Any) -> None:
        """Let Java copy a tensor that a step gave."""
        output.copyDataInto(self._memory.elements())

    def close(self) -> None:
        """Leave it to Java's collector."""


class _Library:
    """The classes of ``org.pytorch.executorch`` that are used here, found once."""

    def __init__(self, java: Java) -> None:
        find = java.autoclass
        self.java = java
        self._find = find
        self._module = find("org.pytorch.executorch.Module")
        self._tensor = find("org.pytorch.executorch.Tensor")
        # `from` is a keyword of Python.
        self._make_value = getattr(find("org.pytorch.executorch.EValue"), "from")
        # Android points this at the app's cache folder.
        self._folder = str(find("java.lang.System").getProperty("java.io.tmpdir"))

    def load(self, program: bytes) -> Any:
        """Load a program with one thread.

        Nothing of the file is read any more when the method is loaded.
        """
        descriptor, name = tempfile.mkstemp(prefix="pocketfl-", suffix=".pte", dir=self._folder)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(program)
            module = self._module.load(name, self._module.LOAD_MODE_FILE, 1)
            module.loadMethod(_METHOD)
        finally:
            Path(name).unlink()
        return module

    def shared(self, dtype: str, shape: Sequence[int]) -> SharedArray:
        return SharedArray(self._find, dtype, shape)

    def value(self, memory: SharedArray, shape: Sequence[int]) -> Any:
        sizes = [int(size) for size in shape]
        make = self._tensor.fromBlobUnsigned if memory.is_bytes else self._tensor.fromBlob
        tensor = make(memory.elements(), sizes)
        return self._make_value(tensor)


def load_library() -> _Library:
    """Load ExecuTorch.

    Raises
    ------
    RuntimeUnavailableError
        If pyjnius or the library is not in the app.
    """
    return load_classes(_Library, runtime="ExecuTorch", dependency="org.pytorch:executorch-android")
