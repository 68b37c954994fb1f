"""What a plan says of its compact updates: how few bits, and what follows from them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, Literal

MAX_BLOCK: Final = 4096
"""Longest block of the rotation; two passes of it mix 16 million coordinates."""
MAX_PADDING: Final = 0.02
"""Largest share of coordinates that are added to fill the last block."""
LARGEST_NORM_BOUND: Final = 32_767
"""No bound is above what two bytes hold, with or without an encoding."""

_DEVIATIONS: Final = 5.0
"""Standard deviations of a rotated coordinate that its bits hold, for an update at the clip norm."""


@dataclass(frozen=True, kw_only=True)
class EncodingSpec:
    """How reports of a plan are made small.

    Attributes
    ----------
    bits : {4, 8}
        For each coordinate, its sign included; without an encoding it is 16.
    """

    bits: Literal[4, 8] = 4

    def __post_init__(self) -> None:
        if self.bits not in (4, 8):
            raise ValueError(f"an encoding has 4 or 8 bits, not {self.bits}")

    @property
    def limit(self) -> int:
        """Largest size of a coordinate in grid units; the grid is symmetric."""
        return int(2 ** (self.bits - 1)) - 1

    def norm_bound(self, length: int) -> int:
        """Return the norm bound in grid units at which a full update just fits its bits.

        A rotated update of norm ``n`` has coordinates of standard deviation ``n / sqrt(P')``; five of
        these are to be :attr:`limit`, and rounding adds at most ``P' / 4`` to the squared norm.

        Parameters
        ----------
        length : int
            Number of parameters P.
        """
        deviation = self.limit / _DEVIATIONS
        bound = math.isqrt(int(padded_length(length) * (deviation**2 + 0.25)))
        # No coordinate of a short vector is above the bound itself.
        return min(LARGEST_NORM_BOUND, max(self.limit, bound))

    def norm_bounds(self, length: int) -> tuple[int, int]:
        """Return the smallest and the largest norm bound that make sense for so many parameters.

        Below the first, rounding alone would fill the bound; above the second, no vector of so few
        bits would reach it.
        """
        padded = padded_length(length)
        most = max(self.limit, math.isqrt(self.limit**2 * padded))
        return math.isqrt(max(1, padded // 2)), min(LARGEST_NORM_BOUND, most)


def block_length(length: int) -> int:
    """Return the length of the rotation's blocks: the longest power of two that needs little padding.

    Parameters
    ----------
    length : int
        Number of parameters P.

    Returns
    -------
    int
        At most :data:`MAX_BLOCK`. Padding is below :data:`MAX_PADDING` of ``length``, or one coordinate
        where that is more.
    """
    allowed = max(1, math.ceil(length * MAX_PADDING) - 1)
    block = 1
    while block < min(length, MAX_BLOCK):
        block *= 2
    while -length % block > allowed:
        block //= 2
    return block


def padded_length(length: int) -> int:
    """Return the number of coordinates P' of a rotated vector of ``length``."""
    return length + -length % block_length(length)
