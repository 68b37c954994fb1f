"""Functions of numbers in simpler ones."""

from __future__ import annotations

import torch
from torch import Tensor


def hypot(x: Tensor, y: Tensor) -> Tensor:
    """Length of ``(x, y)``, scaled by the larger so that no square overflows."""
    large = torch.maximum(x.abs(), y.abs())
    small = torch.minimum(x.abs(), y.abs())
    ratio = small / torch.where(large > 0, large, 1.0)
    return large * (1 + ratio * ratio).sqrt()


def copy(x: Tensor, source: Tensor, non_blocking: bool = False) -> Tensor:
    """The source, in the shape and type of what it would be copied over."""
    return source.to(x.dtype).expand(x.shape).clone()
