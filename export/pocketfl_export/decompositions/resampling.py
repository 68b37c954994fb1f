"""Resizing of series and images: products with constant matrices, and their transposes for gradients.

Every method here is linear along each axis. The matrix of an axis is what torch itself makes of unit
impulses, so that its rules for positions, corners and scales are torch's own.
"""

# ruff: noqa: PLR0917 - the arguments of an ATen operator are positional

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._mode_utils import no_dispatch

aten = torch.ops.aten

Method = Callable[[Tensor, int, float | None], Tensor]
"""Resizes the last axis of ``[1, n, n]`` to a length, by a scale if that is given."""


def _nearest(x: Tensor, size: int, scale: float | None) -> Tensor:
    result: Tensor = aten.upsample_nearest1d.default(x, [size], scale)
    return result


def _linear(align_corners: bool) -> Method:
    def resize(x: Tensor, size: int, scale: float | None) -> Tensor:
        result: Tensor = aten.upsample_linear1d.default(x, [size], align_corners, scale)
        return result

    return resize


def _matrix(method: Method, before: int, after: int, scale: float | None, like: Tensor) -> Tensor:
    """Return the matrix ``[after, before]`` of one axis."""
    with no_dispatch():
        impulses = torch.eye(before, dtype=torch.float64).unsqueeze(0)
        columns = method(impulses, after, scale)[0].t().tolist()
    return torch.tensor(columns, dtype=like.dtype)


def _resize(x: Tensor, method: Method, sizes: Sequence[int], scales: Sequence[Any]) -> Tensor:
    """Resize the last axes."""
    last = _matrix(method, int(x.shape[-1]), int(sizes[-1]), scales[-1], x)
    x = x @ last.t()
    if len(sizes) == 2:
        x = _matrix(method, int(x.shape[-2]), int(sizes[0]), scales[0], x) @ x
    return x


def _spread(
    grad: Tensor, method: Method, sizes: Sequence[int], before: Sequence[int], scales: Sequence[Any]
) -> Tensor:
    """Gradient of :func:`_resize`."""
    grad = grad @ _matrix(method, int(before[-1]), int(sizes[-1]), scales[-1], grad)
    if len(sizes) == 2:
        rows = _matrix(method, int(before[-2]), int(sizes[0]), scales[0], grad)
        grad = rows.t() @ grad
    return grad


def upsample_nearest1d(
    x: Tensor, output_size: Sequence[int], scales: float | None = None
) -> Tensor:
    """Repeat the nearest element."""
    return _resize(x, _nearest, output_size, [scales])


def upsample_nearest1d_backward(
    grad_output: Tensor,
    output_size: Sequence[int],
    input_size: Sequence[int],
    scales: float | None = None,
) -> Tensor:
    """Gradient of :func:`upsample_nearest1d`."""
    return _spread(grad_output, _nearest, output_size, input_size, [scales])


def upsample_nearest2d(
    x: Tensor,
    output_size: Sequence[int],
    scales_h: float | None = None,
    scales_w: float | None = None,
) -> Tensor:
    """Repeat the nearest element."""
    return _resize(x, _nearest, output_size, [scales_h, scales_w])


def upsample_nearest2d_backward(
    grad_output: Tensor,
    output_size: Sequence[int],
    input_size: Sequence[int],
    scales_h: float | None = None,
    scales_w: float | None = None,
) -> Tensor:
    """Gradient of :func:`upsample_nearest2d`."""
    return _spread(grad_output, _nearest, output_size, input_size, [scales_h, scales_w])


def upsample_linear1d(
    x: Tensor, output_size: Sequence[int], align_corners: bool, scales: float | None = None
) -> Tensor:
    """Interpolate between two neighbours."""
    return _resize(x, _linear(align_corners), output_size, [scales])


def upsample_linear1d_backward(
    grad_output: Tensor,
    output_size: Sequence[int],
    input_size: Sequence[int],
    align_corners: bool,
    scales: float | None = None,
) -> Tensor:
    """Gradient of :func:`upsample_linear1d`."""
    return _spread(grad_output, _linear(align_corners), output_size, input_size, [scales])


def upsample_bilinear2d(
    x: Tensor,
    output_size: Sequence[int],
    align_corners: bool,
    scales_h: float | None = None,
    scales_w: float | None = None,
) -> Tensor:
    """Interpolate between four neighbours, one axis after the other."""
    return _resize(x, _linear(align_corners), output_size, [scales_h, scales_w])


def upsample_bilinear2d_backward(
    grad_output: Tensor,
    output_size: Sequence[int],
    input_size: Sequence[int],
    align_corners: bool,
    scales_h: float | None = None,
    scales_w: float | None = None,
) -> Tensor:
    """Gradient of :func:`upsample_bilinear2d`."""
    method = _linear(align_corners)
    return _spread(grad_output, method, output_size, input_size, [scales_h, scales_w])
