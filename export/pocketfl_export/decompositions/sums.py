"""Long sums in two stages, for runtimes that add one element after the other.

In single precision a running sum of n numbers loses up to n units in the last place, and half a million
parameters make a gradient norm that is wrong in the fifth digit; sums of sums lose the square root of
that (Higham, "The accuracy of floating point summation", 1993).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

aten = torch.ops.aten

SHORT = 256
"""Elements of one stage."""


def sum_in_stages(
    x: Tensor,
    dim: Sequence[int] | None,
    keepdim: bool = False,
    *,
    dtype: torch.dtype | None = None,
) -> Any:
    """Sum a long vector in two stages; leave every other sum as it is."""
    length = x.numel()
    if x.dim() != 1 or length <= SHORT**2 // 16 or keepdim or dtype is not None:
        return NotImplemented
    if not x.is_floating_point():
        return NotImplemented
    rows = length // SHORT
    whole = x[: rows * SHORT].reshape(rows, SHORT).sum(1).reshape(1, rows).sum(1)
    if rows * SHORT < length:
        rest = x[rows * SHORT :].reshape(1, -1).sum(1)
        whole = whole + rest
    return whole.reshape(())
