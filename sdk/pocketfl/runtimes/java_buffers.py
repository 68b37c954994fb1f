"""Arrays in memory that Java and native code share, and Python copies to and from.

pyjnius converts Java arrays element by element, except for bytes: so all goes over as bytes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from pocketfl.java import ClassFinder
from pocketfl.runtimes.batches import Array

_VIEWS: Final = {"float32": "asFloatBuffer", "int64": "asLongBuffer"}


class SharedArray:
    """A direct buffer of Java with the dtype and shape of an array.

    Parameters
    ----------
    autoclass : callable
        Returns a Java class by its name.
    dtype : {"float32", "int64", "bool"}
        One byte per element for bool.
    shape : sequence of int
        Empty for a scalar.

    Attributes
    ----------
    buffer : java.nio.ByteBuffer
        The memory, in the processor's byte order.
    is_bytes : bool
        Whether its elements are bytes: those of bool.
    """

    def __init__(self, autoclass: ClassFinder, dtype: str, shape: Sequence[int]) -> None:
        self._type = np.dtype(dtype)
        self._shape = tuple(shape)
        self._bytes: Final = self._type.itemsize * math.prod(self._shape)
        self._byte_buffer = autoclass("java.nio.ByteBuffer")
        self.is_bytes = self._type.name not in _VIEWS
        order = autoclass("java.nio.ByteOrder").nativeOrder()
        self.buffer = self._byte_buffer.allocateDirect(self._bytes).order(order)

    def elements(self) -> Any:
        """Return a view of the memory as a buffer of the dtype, from its first element on."""
        self.buffer.clear()
        view = _VIEWS.get(self._type.name)
        return getattr(self.buffer, view)() if view is not None else self.buffer

    def write(self, array: Array) -> None:
        """Copy an array of the same dtype and shape into the memory."""
        self.buffer.clear()
        self.buffer.put(self._byte_buffer.wrap(array.tobytes()))

    def read(self) -> Array:
        """Return a copy of the memory as an array."""
        self.buffer.clear()
        # Through a buffer in Java's own memory: Python reads a direct one ten times as slowly.
        copy = self._byte_buffer.allocate(self._bytes)
        copy.put(self.buffer)
        data = copy.array().tostring() if self._bytes else b""
        return np.frombuffer(data, self._type).reshape(self._shape)
