"""Which interval a number falls into, by counting the boundaries below it."""

from __future__ import annotations

import torch
from torch import Tensor


def bucketize(
    x: Tensor, boundaries: Tensor, *, out_int32: bool = False, right: bool = False
) -> Tensor:
    """Return how many boundaries are below ``x``, or not above it if ``right``."""
    wide = x.unsqueeze(-1)
    passed = wide >= boundaries if right else wide > boundaries
    return passed.to(torch.int64).sum(-1).to(torch.int32 if out_int32 else torch.int64)
