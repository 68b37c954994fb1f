"""Adaptive max pooling and its gradient, by plain max pooling or window by window.

Window i of m over n elements is ``[floor(i n / m), ceil((i + 1) n / m))``, as in torch.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

aten = torch.ops.aten


def adaptive_max_pool2d(x: Tensor, output_size: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Return the largest of each window, and its position in its plane."""
    height, width = int(x.shape[-2]), int(x.shape[-1])
    rows, columns = int(output_size[0]), int(output_size[1])
    if height % rows == 0 and width % columns == 0:
        kernel = [height // rows, width // columns]
        pooled: tuple[Tensor, Tensor] = aten.max_pool2d_with_indices.default(x, kernel, kernel)
        return pooled
    values, positions = [], []
    passed = torch.zeros((), dtype=torch.int64)
    for top, bottom in _windows(height, rows):
        for left, right in _windows(width, columns):
            window = x[..., top:bottom, left:right].flatten(-2)
            largest, place = window.max(-1)
            values.append(largest)
            # Each row of the window that is passed skips the plane's elements outside the window.
            for row in range(1, bottom - top):
                beyond = (place >= row * (right - left)).to(torch.int64)
                passed = beyond if row == 1 else passed + beyond
            skipped = passed * (width - (right - left)) if bottom - top > 1 else 0
            positions.append(place + skipped + (top * width + left))
    shape = (*x.shape[:-2], rows, columns)
    return torch.stack(values, -1).reshape(shape), torch.stack(positions, -1).reshape(shape)


def adaptive_max_pool2d_backward(grad_output: Tensor, x: Tensor, indices: Tensor) -> Tensor:
    """Hand each output's gradient to the element that was the largest."""
    height, width = int(x.shape[-2]), int(x.shape[-1])
    rows, columns = int(grad_output.shape[-2]), int(grad_output.shape[-1])
    if height % rows == 0 and width % columns == 0:
        kernel = [height // rows, width // columns]
        result: Tensor = aten.max_pool2d_with_indices_backward.default(
            grad_output, x, kernel, kernel, [0, 0], [1, 1], False, indices
        )
        return result
    lead = list(x.shape[:-2])
    zeros = torch.zeros_like(x).reshape(*lead, height * width)
    flat = aten.scatter_add.default(
        zeros, -1, indices.reshape(*lead, -1), grad_output.reshape(*lead, -1)
    )
    return flat.reshape(x.shape)  # type: ignore[no-any-return]


def _windows(size: int, windows: int) -> list[tuple[int, int]]:
    return [(i * size // windows, -(-(i + 1) * size // windows)) for i in range(windows)]
