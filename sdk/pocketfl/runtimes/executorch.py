"""Plans on ExecuTorch through its wheel's Python bindings: for desktops, tests and the exporter.

Those bindings take and return torch tensors, so this is the one module of the device package that
imports torch, and only once a plan is opened with it; :mod:`pocketfl.runtimes.executorch_native` needs
none, where its library was built. On a phone the same programs run in ExecuTorch's
AAR, which needs no torch; memory measured through this module says nothing about a device.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from pocketfl.errors import PlanError, RuntimeUnavailableError
from pocketfl.runtimes.batches import Array
from pocketfl.runtimes.graphs import Graph, GraphRuntime, PlanContents, Signature

if TYPE_CHECKING:
    from types import ModuleType

METHOD: Final = "forward"

# torch's ScalarType numbers, which a program's metadata uses. Programs take booleans as bytes.
_BYTE: Final = 0
_DTYPES: Final = {_BYTE: "bool", 4: "int64", 6: "float32", 11: "bool"}


class ExecutorchRuntime(GraphRuntime):
    """A plan opened in ExecuTorch, with one thread.

    ExecuTorch has one pool of threads for the whole process; opening a plan here sets it to one thread.
    """

    name = "executorch"

    def __init__(self, plan: PlanContents) -> None:
        self._library = load_library()
        super().__init__(plan)

    def _installed_version(self) -> str:
        return version("executorch")

    def cancel(self) -> bool:
        """Return False: a program that runs cannot be interrupted, it ends after its one batch."""
        return False

    def _load(self, part: bytes, arrays: Mapping[str, Array]) -> Graph:
        return _Method(self._library, part, arrays)


class _Method:
    """One loaded program, with tensors that share the memory of the arrays it reads."""

    def __init__(self, library: ModuleType, part: bytes, arrays: Mapping[str, Array]) -> None:
        import torch

        # The program reads its instructions out of these bytes for as long as it lives, and does not
        # keep them alive itself.
        self._data = part
        try:
            self._program = library._load_program_from_buffer(
                part, program_verification=library.Verification.InternalConsistency
            )
            self._method = self._program.load_method(METHOD)
        except Exception as error:  # The bindings raise RuntimeError and worse.
            raise PlanError(f"ExecuTorch cannot load the part: {error}") from error
        meta = self._method.method_meta()
        self.inputs = _signature(meta.input_tensor_meta, meta.num_inputs())
        self.outputs = _signature(meta.output_tensor_meta, meta.num_outputs())
        self._tensors = [
            torch.from_numpy(array.view(np.uint8) if is_byte and array.dtype == np.bool_ else array)
            for array, is_byte in zip(arrays.values(), _bytes_for_booleans(meta), strict=False)
        ]

    def run(self) -> Sequence[Array]:
        outputs = self._method(self._tensors, clone_outputs=False)
        return [output.numpy() for output in outputs]

    def close(self) -> None:
        """Leave it to Python."""


@cache
def load_library() -> ModuleType:
    """Import the bindings, and nothing of ExecuTorch's compiler with them.

    The documented entry points (``executorch.runtime``) import ``executorch.exir`` for one class of
    warnings, and with it torchao and sympy: 130 MB and five seconds. The extension module that they
    wrap is imported here directly.

    Raises
    ------
    RuntimeUnavailableError
        If ExecuTorch or torch is not installed.
    """
    try:
        version("executorch")
        import torch  # noqa: F401 - the extension needs libtorch in the process
    except (ImportError, PackageNotFoundError) as error:
        raise RuntimeUnavailableError(
            "ExecuTorch's Python bindings and torch are not installed: pip install 'pocketfl[export]'; "
            "without torch, pip install 'pocketfl[executorch]' and pocketfl runtimes build-executorch; "
            "or open the plan with the runtime 'onnxruntime'"
        ) from error
    try:
        with quiet_standard_error():
            from executorch.extension.pybindings import _C

            library: ModuleType = _C
            library._unsafe_reset_threadpool(1)
    except ImportError as error:
        raise RuntimeUnavailableError(
            f"this build of ExecuTorch has no usable Python bindings ({error}): pip install "
            "'pocketfl[export]', or open the plan with the runtime 'onnxruntime'"
        ) from error
    return library


@contextmanager
def quiet_standard_error() -> Iterator[None]:
    """Hide what native code prints while it is loaded: notes on processors and threads."""
    try:
        sys.stderr.flush()
        saved = os.dup(2)
    except (OSError, AttributeError):  # No standard error at all, as in some services.
        yield
        return
    try:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 2)
        os.close(null)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)


def _bytes_for_booleans(meta: Any) -> Iterator[bool]:
    for index in range(meta.num_inputs()):
        yield meta.input_tensor_meta(index).dtype() == _BYTE


def _signature(tensor_meta: Any, count: int) -> Signature:
    metas = [tensor_meta(index) for index in range(count)]
    return tuple((_DTYPES.get(m.dtype(), str(m.dtype())), tuple(m.sizes())) for m in metas)
