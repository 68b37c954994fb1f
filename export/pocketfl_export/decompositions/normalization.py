"""Batch normalisation without state: with stored statistics, or of each instance by itself.

Formulas: Ioffe and Szegedy (arXiv 1502.03167). torch computes instance normalisation as batch
normalisation of one long batch without running statistics.
"""

# ruff: noqa: PLR0917 - the arguments of an ATen operator are positional

from __future__ import annotations

import torch
from torch import Tensor

from pocketfl_export.errors import UnsupportedModelError


def native_batch_norm(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    training: bool,
    momentum: float,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the output, and mean and reciprocal deviation for the backward pass."""
    axes = [d for d in range(x.dim()) if d != 1]
    shape = [1, -1] + [1] * (x.dim() - 2)
    if training:
        if running_mean is not None:
            raise UnsupportedModelError(
                operator="aten.native_batch_norm with running statistics in train mode",
                rewrite="use torch.nn.GroupNorm or LayerNorm, or call .eval() on the module",
                reason="its statistics are state outside the parameters",
            )
        mean = x.mean(axes)
        centred = x - mean.view(shape)
        inverse = torch.rsqrt((centred * centred).mean(axes) + eps)
        saved = mean, inverse
    else:
        assert running_mean is not None  # noqa: S101 - torch demands both in eval mode
        assert running_var is not None  # noqa: S101
        centred = x - running_mean.view(shape)
        inverse = torch.rsqrt(running_var + eps)
        saved = x.new_empty(0), x.new_empty(0)
    y = centred * inverse.view(shape)
    if weight is not None:
        y = y * weight.view(shape)
    if bias is not None:
        y = y + bias.view(shape)
    return y, *saved
