"""Group normalisation of channels-last images, in products and sums that XNNPACK computes.

ExecuTorch's own kernel wants the channels before the positions, which those of our convolutions are
not, so that every one stood between two permutations. Formulas: Wu and He, "Group Normalization"
(arXiv 1803.08494), and its derivative.
"""
# ruff: noqa: PLR0917 - the arguments of an ATen operator are positional

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

Gradients = tuple[Tensor | None, Tensor | None, Tensor | None]


def native_group_norm(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    rows: int,
    channels: int,
    positions: int,
    groups: int,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute ``aten.native_group_norm``: the output, and mean and reciprocal deviation ``[N, G]``."""
    image = _positions_first(x, rows, channels, positions)
    centred, mean = _centred(image, groups)
    squares = _sum_of_positions(centred * centred)
    inverse = torch.rsqrt(_group_means(squares, groups, positions) + eps)
    scale = inverse if weight is None else inverse * weight.reshape(1, 1, channels)
    result = centred * scale
    if bias is not None:
        result = result + bias.reshape(1, 1, channels)
    return _as_image(result, x), _of_groups(mean, groups), _of_groups(inverse, groups)


def native_group_norm_backward(
    grad_output: Tensor,
    x: Tensor,
    mean: Tensor,
    inverse: Tensor,
    weight: Tensor | None,
    rows: int,
    channels: int,
    positions: int,
    groups: int,
    output_mask: Sequence[bool],
) -> Gradients:
    """Compute the gradients of input, weight and bias where ``output_mask`` asks for them."""
    grad = _positions_first(grad_output, rows, channels, positions)
    # As the forward pass has it, with which these nodes are then merged.
    centred, _ = _centred(_positions_first(x, rows, channels, positions), groups)
    ones = torch.ones(1, channels // groups, dtype=x.dtype)
    scale = (inverse.reshape(-1, 1) * ones).reshape(rows, 1, channels)
    of_bias = _sum_of_positions(grad)
    of_weight = _sum_of_positions(grad * centred) * scale
    grad_input = grad_weight = grad_bias = None
    if output_mask[0]:
        factor = of_bias.new_ones(1, 1, channels) if weight is None else weight.reshape(1, 1, -1)
        # What the output's gradient has in the directions of a constant and of the image itself.
        constant = _group_means(of_bias * factor, groups, positions)
        along = _group_means(of_weight * factor, groups, positions)
        result = grad * (scale * factor) - centred * (along * scale * scale) - constant * scale
        grad_input = _as_image(result, x)
    if output_mask[1]:
        grad_weight = of_weight.reshape(rows, channels).sum(0)
    if output_mask[2]:
        grad_bias = of_bias.reshape(rows, channels).sum(0)
    return grad_input, grad_weight, grad_bias


def _positions_first(x: Tensor, rows: int, channels: int, positions: int) -> Tensor:
    """Return ``[N, positions, C]``; undone by the permutation that a convolution ends with."""
    return x.permute(0, *range(2, x.dim()), 1).reshape(rows, positions, channels)


def _as_image(x: Tensor, like: Tensor) -> Tensor:
    rows, channels, *spatial = like.shape
    image = x.reshape(rows, *spatial, channels)
    return image.permute(0, image.dim() - 1, *range(1, image.dim() - 1))


def _centred(image: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    """Return the image less the mean of its group, and that mean for each channel."""
    mean = _group_means(_sum_of_positions(image), groups, int(image.shape[1]))
    return image - mean, mean


def _sum_of_positions(x: Tensor) -> Tensor:
    """Return ``[N, 1, C]``: a product with ones, since XNNPACK has no sum."""
    return torch.bmm(torch.ones(x.shape[0], 1, x.shape[1], dtype=x.dtype), x)


def _group_means(sums: Tensor, groups: int, positions: int) -> Tensor:
    """Return for each channel the mean of its group, ``[N, 1, C]``, from sums over positions."""
    size = int(sums.shape[2]) // groups
    shares = torch.full((size, size), 1.0 / (positions * size), dtype=sums.dtype)
    return (sums.reshape(-1, size) @ shares).reshape(sums.shape)


def _of_groups(values: Tensor, groups: int) -> Tensor:
    """Return ``[N, G]`` from what all channels of a group have in common."""
    rows = int(values.shape[0])
    return values.reshape(rows, groups, -1)[:, :, :1].reshape(rows, groups)
