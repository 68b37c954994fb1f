"""Plans on ExecuTorch without torch: the libraries of its wheel, through a small library of ours.

Preferred to :mod:`pocketfl.runtimes.executorch` where :mod:`~pocketfl.runtimes.executorch_build` has
built it. The same kernels run, so the results are the same bits; torch's memory and import time are
saved, and other threads of Python go on while a step runs.
"""

from __future__ import annotations

import ctypes
import math
import weakref
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import numpy as np

from pocketfl.errors import PlanError, RuntimeUnavailableError
from pocketfl.runtimes.batches import Array
from pocketfl.runtimes.executorch import METHOD, quiet_standard_error
from pocketfl.runtimes.executorch_build import PACKAGE, package_folder
from pocketfl.runtimes.graphs import Graph, GraphRuntime, PlanContents, Signature
from pocketfl.runtimes.programs import read_signatures

_LIBRARIES: Final = (
    "libexecutorch.so",
    "libexecutorch_threadpool.so",
    "libexecutorch_kernels_optimized.so",
    "libexecutorch_backend_xnnpack.so",
)
"""In the order in which they need each other; kernels and delegate add themselves to the first."""

# ExecuTorch's numbers. Programs take booleans as bytes; older ones as they are ("boolean").
_SCALAR_TYPES: Final = {"bool": 0, "int64": 4, "float32": 6, "boolean": 11}
_DTYPES: Final = {name: "bool" if name == "boolean" else name for name in _SCALAR_TYPES}


class NativeExecutorchRuntime(GraphRuntime):
    """A plan opened in ExecuTorch, on the caller's thread alone.

    Parameters
    ----------
    plan : PlanContents
        The plan.
    library : Path
        What :func:`~pocketfl.runtimes.executorch_build.build_library` made.

    Raises
    ------
    RuntimeUnavailableError
        If the library is not one for the installed executorch, or the plan has no parts for it.
    """

    name = "executorch"

    def __init__(self, plan: PlanContents, library: Path) -> None:
        self._library = load_library(library)
        super().__init__(plan)

    def _installed_version(self) -> str:
        return version(PACKAGE)

    def cancel(self) -> bool:
        """Return False: a program that runs cannot be interrupted, it ends after its one batch."""
        return False

    def _load(self, part: bytes, arrays: Mapping[str, Array]) -> Graph:
        return _Method(self._library, part, arrays)


class _Method:
    """One loaded program, bound to the arrays that it reads."""

    def __init__(self, library: ctypes.CDLL, part: bytes, arrays: Mapping[str, Array]) -> None:
        # The program reads its instructions out of these bytes for as long as it lives.
        self._part = part
        self._library = library
        try:
            takes, gives = read_signatures(part, METHOD)
        except PlanError as error:
            raise PlanError(f"ExecuTorch cannot load the part: {error}") from error
        self.inputs, self.outputs = _in_numpys_words(takes), _in_numpys_words(gives)
        program = ctypes.c_void_p()
        code = library.pocketfl_load(part, len(part), METHOD.encode(), ctypes.byref(program))
        if code:
            raise PlanError(f"ExecuTorch cannot load the part: its error {code:#x}")
        self._program = program
        self._close = weakref.finalize(self, library.pocketfl_close, program)
        # Bound at the first run, when it is known that the part fits the manifest.
        self._arrays: list[Array] = list(arrays.values())
        self._scalar_types = [_SCALAR_TYPES.get(dtype, -1) for dtype, _ in takes]
        self._is_bound = False
        count = len(self.outputs)
        self._places = (ctypes.c_void_p * count)()
        self._bytes = (ctypes.c_size_t * count)()
        self._seen: tuple[int | None, ...] = ()
        self._views: list[Array] = []

    def run(self) -> Sequence[Array]:
        if not self._is_bound:
            self._bind()
        code = self._library.pocketfl_run(
            self._program, len(self._places), self._bytes, self._places
        )
        if code:
            raise RuntimeError(f"ExecuTorch could not run the part: its error {code:#x}")
        places = tuple(self._places)
        if places != self._seen:
            self._views = [
                _view(place, dtype, shape)
                for place, (dtype, shape) in zip(places, self.outputs, strict=True)
            ]
            self._seen = places
        return self._views

    def close(self) -> None:
        self._views = []
        self._close()

    def _bind(self) -> None:
        for array, scalar_type in zip(self._arrays, self._scalar_types, strict=True):
            sizes = (ctypes.c_int32 * array.ndim)(*array.shape)
            code = self._library.pocketfl_bind(
                self._program, array.ctypes.data, scalar_type, array.ndim, sizes
            )
            if code:
                raise RuntimeError(f"ExecuTorch does not take {array.dtype}: its error {code:#x}")
        for index, (dtype, shape) in enumerate(self.outputs):
            self._bytes[index] = np.dtype(dtype).itemsize * math.prod(shape)
        self._is_bound = True


@cache
def load_library(path: Path) -> ctypes.CDLL:
    """Load the library, and before it the libraries of ExecuTorch that it needs.

    Raises
    ------
    RuntimeUnavailableError
        If one of them cannot be loaded, or it was built for another version of ExecuTorch.
    """
    again = "build it again: pocketfl runtimes build-executorch"
    folder = package_folder() / "lib"
    try:
        with quiet_standard_error():
            for name in _LIBRARIES:
                ctypes.CDLL(str(folder / name))
            library = ctypes.CDLL(str(path))
            _declare(library)
            code = library.pocketfl_start()
    except (OSError, AttributeError) as error:
        raise RuntimeUnavailableError(f"{path} cannot be loaded ({error}): {again}") from error
    if code:
        raise RuntimeUnavailableError(f"ExecuTorch cannot start: its error {code:#x}")
    built_for = library.pocketfl_executorch_version().decode()
    if built_for != version(PACKAGE):
        raise RuntimeUnavailableError(
            f"{path} was built for executorch {built_for} and {version(PACKAGE)} is installed: {again}"
        )
    return library


def _declare(library: ctypes.CDLL) -> None:
    pointer, size = ctypes.c_void_p, ctypes.c_size_t
    functions: dict[str, tuple[Any, list[Any]]] = {
        "executorch_version": (ctypes.c_char_p, []),
        "start": (ctypes.c_uint32, []),
        "load": (ctypes.c_uint32, [ctypes.c_char_p, size, ctypes.c_char_p, pointer]),
        "bind": (ctypes.c_uint32, [pointer, pointer, ctypes.c_int8, size, pointer]),
        "run": (ctypes.c_uint32, [pointer, size, pointer, pointer]),
        "close": (None, [pointer]),
    }
    for name, (result, arguments) in functions.items():
        function = getattr(library, f"pocketfl_{name}")
        function.restype, function.argtypes = result, arguments


def _in_numpys_words(signature: Signature) -> Signature:
    return tuple((_DTYPES.get(dtype, dtype), shape) for dtype, shape in signature)


def _view(place: int | None, dtype: str, shape: tuple[int, ...]) -> Array:
    """Return an array over memory of the library's."""
    count = math.prod(shape)
    if not count:
        return np.zeros(shape, dtype)
    memory = (ctypes.c_byte * (count * np.dtype(dtype).itemsize)).from_address(place or 0)
    return np.ctypeslib.as_array(memory).view(dtype).reshape(shape)
