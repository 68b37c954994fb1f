"""Sliding windows laid side by side, and their gradients: sums of shifted slices."""

# ruff: noqa: PLR0917 - the arguments of an ATen operator are positional

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

from pocketfl_export.decompositions.slices import slice_backward

aten = torch.ops.aten


def unfold(x: Tensor, dimension: int, size: int, step: int) -> Tensor:
    """``Tensor.unfold``: windows along one axis; their elements become the last axis."""
    axis = dimension % x.dim()
    windows = (int(x.shape[axis]) - size) // step + 1
    reach = (windows - 1) * step + 1
    return torch.stack(
        [aten.slice.Tensor(x, axis, i, i + reach, step) for i in range(size)], x.dim()
    )


def unfold_backward(
    grad: Tensor, input_sizes: Sequence[int], dim: int, size: int, step: int
) -> Tensor:
    """Add up what the windows hand back to each element."""
    axis = dim % len(input_sizes)
    reach = (int(grad.shape[axis]) - 1) * step + 1
    parts = [
        slice_backward(grad.select(-1, i), input_sizes, axis, i, i + reach, step)
        for i in range(size)
    ]
    return sum(parts[1:], parts[0])


def im2col(
    x: Tensor,
    kernel_size: Sequence[int],
    dilation: Sequence[int],
    padding: Sequence[int],
    stride: Sequence[int],
) -> Tensor:
    """``torch.nn.functional.unfold``: the patches of images, ``[N, C * taps, positions]``."""
    padded = _pad(x, padding)
    size = _positions(padded, kernel_size, dilation, stride)
    taps = []
    for tap in _taps(kernel_size, dilation):
        view = padded
        for d in range(2):
            stop = tap[d] + (size[d] - 1) * stride[d] + 1
            view = aten.slice.Tensor(view, d - 2, tap[d], stop, stride[d])
        taps.append(view.flatten(-2))
    return torch.stack(taps, -2).flatten(-3, -2)


def col2im(
    x: Tensor,
    output_size: Sequence[int],
    kernel_size: Sequence[int],
    dilation: Sequence[int],
    padding: Sequence[int],
    stride: Sequence[int],
) -> Tensor:
    """``torch.nn.functional.fold``, the gradient of :func:`im2col`: patches added into images."""
    height, width = (int(n) + 2 * int(p) for n, p in zip(output_size, padding, strict=True))
    taps = _taps(kernel_size, dilation)
    reach = [dilation[d] * (kernel_size[d] - 1) + 1 for d in range(2)]
    rows = (height - reach[0]) // stride[0] + 1
    columns = (width - reach[1]) // stride[1] + 1
    lead = list(x.shape[:-2])
    parts = x.reshape(*lead, -1, len(taps), rows, columns)
    total: Tensor | None = None
    for number, (top, left) in enumerate(taps):
        part = parts.select(-3, number)
        shape = list(part.shape)
        for d, first, length, count in ((-1, left, width, columns), (-2, top, height, rows)):
            shape[d] = length
            stop = first + (count - 1) * stride[d] + 1
            part = slice_backward(part, shape, len(shape) + d, first, stop, stride[d])
        total = part if total is None else total + part
    assert total is not None  # noqa: S101 - a kernel has at least one tap
    top, left = int(padding[0]), int(padding[1])
    return total[..., top : height - top, left : width - left]


def _pad(x: Tensor, padding: Sequence[int]) -> Tensor:
    if not any(padding):
        return x
    rows, columns = int(padding[0]), int(padding[1])
    result: Tensor = aten.constant_pad_nd.default(x, [columns, columns, rows, rows], 0.0)
    return result


def _positions(
    padded: Tensor, kernel_size: Sequence[int], dilation: Sequence[int], stride: Sequence[int]
) -> list[int]:
    return [
        (int(padded.shape[d - 2]) - dilation[d] * (kernel_size[d] - 1) - 1) // stride[d] + 1
        for d in range(2)
    ]


def _taps(kernel_size: Sequence[int], dilation: Sequence[int]) -> list[tuple[int, ...]]:
    return list(
        itertools.product(*(range(0, k * d, d) for k, d in zip(kernel_size, dilation, strict=True)))
    )
