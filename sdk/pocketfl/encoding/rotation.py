"""A random rotation that spreads an update evenly over its coordinates.

Without it a few large coordinates would decide how fine the grid has to be for all of them. With it
every coordinate is close to a Gaussian of the same size, so that few bits suffice for each (Suresh, Yu,
Kumar and McMahan 2017, "Distributed Mean Estimation with Limited Communication"). The rotation is
linear and keeps norms: the trusted tier sums rotated vectors and adds its noise to them, and the back
end turns the noised sum back.

One pass flips signs at random and takes the Walsh-Hadamard transform of each block. Reading the
coordinates in another order (across the blocks) before the next pass mixes the blocks with one another,
so that no power of two has to be filled up with zeros.

The signs are public, and privacy does not rest on them: they are the same for a whole round, else sums
would be of no use.
"""

# ruff: noqa: A002 - "round" is the word of the field

from __future__ import annotations

import math
from functools import lru_cache
from hashlib import sha256, shake_256
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pocketfl.encoding.spec import block_length, padded_length

_LABEL: Final = "pocketfl rotation 1"


class Rotation:
    """An orthogonal map from R^P to R^P', seeded.

    Parameters
    ----------
    length : int
        Number of coordinates P before.
    seed : bytes
        Decides which rotation; the same one everywhere.

    Attributes
    ----------
    length, padded : int
        P and P'.
    """

    def __init__(self, length: int, seed: bytes) -> None:
        if length < 1:
            raise ValueError("a rotation needs at least one coordinate")
        self.length: Final = length
        self.padded: Final = padded_length(length)
        self._block: Final = block_length(length)
        self._seed: Final = seed

    @classmethod
    def of_round(cls, length: int, *, plan_sha256: str, task: str, round: int) -> Rotation:
        """Return a round's rotation, which follows from what everybody in the round knows."""
        seed = sha256(f"{_LABEL}\n{plan_sha256}\n{task}\n{round}".encode()).digest()
        return cls(length, seed)

    def apply(self, vector: NDArray[np.floating]) -> NDArray[np.float64]:
        """Rotate a vector of shape (P,) to one of shape (P',) and the same L2 norm."""
        if vector.shape != (self.length,):
            raise ValueError(f"a vector of {self.length} is rotated, not {vector.shape}")
        turned = np.zeros(self.padded)
        turned[: self.length] = vector
        for number in range(self._passes):
            turned *= self._signs(number)
            blocks = turned.reshape(-1, self._block)
            walsh_hadamard(blocks)
            turned = blocks.T.reshape(-1)
        return turned

    def invert(self, rotated: NDArray[np.floating] | NDArray[np.integer]) -> NDArray[np.float64]:
        """Turn a vector of shape (P',) back to one of shape (P,).

        What noise put where only padding had been is dropped with the padding.
        """
        if rotated.shape != (self.padded,):
            raise ValueError(f"a vector of {self.padded} is turned back, not {rotated.shape}")
        turned = rotated.astype(np.float64)
        for number in reversed(range(self._passes)):
            blocks = np.ascontiguousarray(turned.reshape(self._block, -1).T)
            walsh_hadamard(blocks)
            turned = blocks.reshape(-1)
            turned *= self._signs(number)
        return turned[: self.length]

    @property
    def _passes(self) -> int:
        """As many as it takes until every coordinate can reach every other."""
        if self._block == 1:
            return 1
        return max(1, math.ceil(math.log(self.padded) / math.log(self._block) - 1e-9))

    def _signs(self, number: int) -> NDArray[np.int8]:
        return _signs(self.padded, self._seed, number)


@lru_cache(maxsize=4)
def _signs(length: int, seed: bytes, number: int) -> NDArray[np.int8]:
    stream = shake_256(seed + bytes([number])).digest(-(-length // 8))
    bits = np.unpackbits(np.frombuffer(stream, dtype=np.uint8), count=length)
    signs = (2 * bits.astype(np.int8)) - 1
    signs.flags.writeable = False
    return signs


def walsh_hadamard(blocks: NDArray[np.float64]) -> None:
    """Take the orthonormal Walsh-Hadamard transform of each row, in place.

    Parameters
    ----------
    blocks : ndarray of float64, shape (m, n), C-contiguous
        ``n`` is a power of two.
    """
    rows, length = blocks.shape
    # The transform of length a * b is one over a and one over b. Both run over the middle axis, so that
    # each step of numpy adds long stretches of memory.
    outer = 1 << ((length.bit_length() - 1) // 2)
    inner = length // outer
    folded = blocks.reshape(rows, outer, inner)
    _butterflies(folded)
    across = np.ascontiguousarray(folded.swapaxes(1, 2))
    _butterflies(across)
    across *= 1 / math.sqrt(length)
    folded[...] = across.swapaxes(1, 2)


def _butterflies(blocks: NDArray[np.float64]) -> None:
    """Transform along axis 1 of three, in place, without scaling."""
    rows, length, width = blocks.shape
    half = 1
    while half < length:
        pairs = blocks.reshape(rows, length // (2 * half), 2, half * width)
        above, below = pairs[:, :, 0], pairs[:, :, 1]
        difference = above - below
        above += below
        below[...] = difference
        half *= 2
