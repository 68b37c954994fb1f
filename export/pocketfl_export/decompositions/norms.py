"""Vector norms by sums and extremes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pocketfl_export.errors import UnsupportedModelError


def linalg_vector_norm(
    x: Tensor,
    order: float = 2.0,
    dim: Sequence[int] | int | None = None,
    keepdim: bool = False,
    *,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Return ``(sum |x|^order)^(1 / order)``; orders above 0 and the infinite ones."""
    if dtype is not None:
        x = x.to(dtype)
    if dim is None:
        axes = list(range(x.dim()))
    else:
        axes = [dim] if isinstance(dim, int) else list(dim) or list(range(x.dim()))
    if order == 2:
        return (x * x).sum(axes, keepdim).sqrt()
    if order == 1:
        return x.abs().sum(axes, keepdim)
    if order == float("inf"):
        return x.abs().amax(axes, keepdim)
    if order == float("-inf"):
        return x.abs().amin(axes, keepdim)
    if order > 0:
        return (x.abs() ** order).sum(axes, keepdim) ** (1 / order)
    raise UnsupportedModelError(
        operator=f"aten.linalg_vector_norm of order {order}",
        rewrite="use an order above 0",
        reason="it has no exact counterpart on a device",
    )
