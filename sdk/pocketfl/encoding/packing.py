"""Small signed integers as bytes: one in a byte, or two, the first in the low half."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def packed_size(length: int, bits: int) -> int:
    """Return the number of bytes of so many coordinates."""
    return -(-length * bits // 8)


def pack(values: NDArray[np.integer], *, bits: int) -> bytes:
    """Pack integers in two's complement.

    Parameters
    ----------
    values : ndarray of integer, shape (n,)
        Each at most ``2**(bits - 1) - 1`` in size.
    bits : {4, 8}
        Of each.

    Returns
    -------
    bytes
        Of :func:`packed_size`; an unused half of the last byte is 0.

    Raises
    ------
    ValueError
        If a value does not fit.
    """
    limit = 2 ** (bits - 1) - 1
    if values.size and (int(values.max()) > limit or int(values.min()) < -limit):
        raise ValueError(f"a coordinate is above the {limit} that {bits} bits hold")
    narrow = values.astype(np.int8).view(np.uint8)
    if bits == 8:
        return narrow.tobytes()
    halves = np.zeros(2 * packed_size(values.size, 4), dtype=np.uint8)
    halves[: values.size] = narrow & 15
    return (halves[::2] | (halves[1::2] << 4)).tobytes()


def unpack(data: bytes | memoryview, *, length: int, bits: int) -> NDArray[np.int8]:
    """Unpack what :func:`pack` made.

    Parameters
    ----------
    data : bytes
        Of :func:`packed_size`.
    length : int
        Number of coordinates.
    bits : {4, 8}
        Of each.

    Raises
    ------
    ValueError
        If the length differs, a value is the one that the symmetric grid leaves out, or the unused
        half of the last byte is not 0: one vector has one encoding.
    """
    if bits == 4:
        low, high = unpack_halves(data, length=length)
        return np.stack((low, high), axis=1).reshape(-1)[:length]
    if len(data) != length:
        raise ValueError(f"{len(data)} bytes, not the {length} of this plan")
    values = np.frombuffer(data, dtype=np.int8).copy()
    _check_grid(values, bits=8)
    return values


def unpack_halves(
    data: bytes | memoryview, *, length: int
) -> tuple[NDArray[np.int8], NDArray[np.int8]]:
    """Unpack vectors of 4 bits a coordinate as two: the even coordinates, and the odd ones.

    Both have as many elements as there are bytes; for an odd length the last odd one is 0.

    Raises
    ------
    ValueError
        As :func:`unpack` does.
    """
    if len(data) != packed_size(length, 4):
        raise ValueError(f"{len(data)} bytes, not the {packed_size(length, 4)} of this plan")
    packed = np.frombuffer(data, dtype=np.int8)
    # To the top and back again extends the sign; processors multiply bytes faster than they shift them.
    low = packed * np.int8(16)
    low >>= 4
    high = packed >> 4
    if length % 2 and high[-1]:
        raise ValueError("the unused end is not zero")
    _check_grid(low, bits=4)
    _check_grid(high, bits=4)
    return low, high


def _check_grid(values: NDArray[np.int8], *, bits: int) -> None:
    if values.size and int(values.min()) <= -(2 ** (bits - 1)):
        raise ValueError(f"a coordinate is beyond the grid of {bits} bits")
