"""Orders and numbers that depend on a seed alone, the same on every device and with every NumPy."""

from __future__ import annotations

import math
from hashlib import shake_128
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Seed: TypeAlias = int | tuple[int, ...]
"""A non-negative integer, or several that are mixed, such as ``(seed, epoch)``."""


def permutation(count: int, *, seed: Seed) -> NDArray[np.int64]:
    """Return a pseudo-random order of ``0 .. count - 1``.

    Sorts a stream that is the same for ever (:func:`_stream`), as a session that resumes after an
    update must see the same order.

    Parameters
    ----------
    count : int
        Length.
    seed : int or tuple of int
        Not negative.

    Returns
    -------
    ndarray of int64, shape (count,)
        The order.
    """
    return np.argsort(_stream(count, seed=seed), kind="stable")


def choose(count: int, *, limit: int, seed: Seed) -> NDArray[np.int64]:
    """Return ``limit`` different numbers below ``count``, rising; all of them when it has no more.

    Parameters
    ----------
    count, limit : int
        How many there are, and how many to take at most.
    seed : int or tuple of int
        Not negative.

    Returns
    -------
    ndarray of int64, shape (min(count, limit),)
        Each choice of that size is equally likely over seeds.
    """
    if limit >= count:
        return np.arange(count, dtype=np.int64)
    raw = _stream(count, seed=seed)
    return np.sort(np.argpartition(raw, limit)[:limit])


def uniform_numbers(shape: tuple[int, ...], *, seed: Seed) -> NDArray[np.float32]:
    """Return pseudo-random numbers from 0 to below 1, each a multiple of 2^-24.

    Made of the raw stream of PCG64, which NumPy promises for ever (NEP 19): many are needed at a time.

    Parameters
    ----------
    shape : tuple of int
        Of the result.
    seed : int or tuple of int
        Not negative.

    Returns
    -------
    ndarray of float32
        The numbers.
    """
    raw = np.random.PCG64(seed).random_raw(math.prod(shape))
    return ((raw >> np.uint64(40)).astype(np.float32) * np.float32(2**-24)).reshape(shape)


def _stream(count: int, *, seed: Seed) -> NDArray[np.uint64]:
    """Return pseudo-random 64-bit numbers: the output of SHAKE128 (FIPS 202) for a seed.

    NumPy's generators would do as well, but to import them costs a phone about 2 MB at its peak.
    """
    parts = seed if isinstance(seed, tuple) else (seed,)
    if any(part < 0 for part in parts):
        raise ValueError(f"a seed cannot be negative, and {seed} is")
    named = "/".join(("pocketfl.selection", *map(str, parts)))
    return np.frombuffer(shake_128(named.encode()).digest(8 * count), dtype="<u8")
