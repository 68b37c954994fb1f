"""How a model's parameters are kept and downloaded: as float32, or in half the bytes as float16.

A runtime's vector is float32 either way, and so is all arithmetic on it. Rounding is IEEE 754's, to
nearest with ties to even: relative to a value it is at most 2 to the -11, and at most 2 to the -25
below float16's smallest normal number, 6.1e-5.
"""

from __future__ import annotations

from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from pocketfl.errors import PlanError

Storage = Literal["float32", "float16"]

LARGEST: Final = 65_504.0
"""Largest float16."""

_KINDS: Final[dict[Storage, str]] = {"float32": "<f4", "float16": "<f2"}
_PARTS: Final[dict[Storage, str]] = {"float32": "parameters.f32", "float16": "parameters.f16"}


def part_name(storage: Storage) -> str:
    """Return the name of the part that holds a plan's initial parameters."""
    return _PARTS[storage]


def byte_length(count: int, storage: Storage) -> int:
    """Return the bytes of so many parameters."""
    return count * np.dtype(_KINDS[storage]).itemsize


def as_stored(vector: NDArray[np.float32], storage: Storage) -> NDArray[np.float32]:
    """Return what becomes of parameters that are stored and read again; too large ones are infinite."""
    with np.errstate(over="ignore"):
        return vector.astype(_KINDS[storage]).astype(np.float32)


def encode_parameters(vector: NDArray[np.float32], storage: Storage) -> bytes:
    """Return parameters as they are stored and downloaded: flat, little-endian.

    Parameters
    ----------
    vector : ndarray of float32, shape (P,)
        Finite.
    storage : {"float32", "float16"}
        Of the plan.

    Raises
    ------
    PlanError
        If a value is not finite, or becomes so.
    """
    if not np.isfinite(vector).all():
        raise PlanError("the parameters are not all finite")
    if not np.isfinite(as_stored(vector, storage)).all():
        raise PlanError(
            f"a parameter of size {np.abs(vector).max():g} cannot be stored as {storage}, whose "
            f"largest number is {LARGEST:g}: store float32, or keep the parameters small (weight decay)"
        )
    return vector.astype(_KINDS[storage], copy=False).tobytes()


def decode_parameters(data: bytes, *, count: int, storage: Storage) -> NDArray[np.float32]:
    """Read what :func:`encode_parameters` made.

    Returns
    -------
    ndarray of float32, shape (count,)
        Finite.

    Raises
    ------
    PlanError
        If the length is wrong or a value is not finite.
    """
    length = byte_length(count, storage)
    if len(data) != length:
        raise PlanError(f"parameters of {len(data)} bytes, not the {length} of this plan")
    vector = np.frombuffer(data, dtype=_KINDS[storage]).astype(np.float32)
    if not np.isfinite(vector).all():
        raise PlanError("the parameters are not all finite")
    return vector
