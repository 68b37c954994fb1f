"""Pooling in forms that XNNPACK computes: slices, maxima and arithmetic instead of comparisons.

Windows that tile the image are pooled one axis after the other. The gradient goes to the first maximum
of a window in row-major order, as in torch: within a row the later element must be strictly greater to
win, and so must the later row. ExecuTorch's own kernel for this gradient does not clear its output
first (pytorch/executorch issue 21686).
"""
# ruff: noqa: PLR0917 - the arguments of an ATen operator are positional

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pocketfl_export.decompositions import pooling
from pocketfl_export.executorch.activations import positive

aten = torch.ops.aten


def max_pool2d_with_indices(
    x: Tensor,
    kernel_size: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] = (0,),
    dilation: Sequence[int] = (1,),
    ceil_mode: bool = False,
) -> tuple[Tensor, Tensor]:
    """Pool tiles by slices; the indices, which only the portable kernel can make, are then unused."""
    kernel = _pair(kernel_size)
    if not _tiles(x, kernel, stride, padding) or _pair(dilation) != [1, 1] or x.dim() != 4:
        return NotImplemented  # type: ignore[no-any-return] # torch then keeps the operator
    nhwc = x.permute(0, 2, 3, 1)
    for axis in (2, 1):
        nhwc = _maximum(_split(nhwc, axis, kernel[axis - 1]))
    values = nhwc.permute(0, 3, 1, 2)
    return values, torch.zeros(values.shape, dtype=torch.int64)


def max_pool2d_backward(
    grad_output: Tensor,
    x: Tensor,
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    ceil_mode: bool,
    indices: Tensor,
) -> Tensor:
    """Route each output's gradient to the first maximum of its window."""
    kernel = _pair(kernel_size)
    if not _tiles(x, kernel, stride, padding) or _pair(dilation) != [1, 1] or x.dim() != 4:
        return pooling.max_pool2d_backward(
            grad_output, x, kernel_size, stride, padding, dilation, ceil_mode, indices
        )
    rows = _split(x.permute(0, 2, 3, 1), 2, kernel[1])
    lines = _split(_maximum(rows), 1, kernel[0])
    grad = _join(_route(grad_output.permute(0, 2, 3, 1), lines), 1)
    return _join(_route(grad, rows), 2).permute(0, 3, 1, 2)


def avg_pool2d(
    x: Tensor,
    kernel_size: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] = (0,),
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Tensor:
    """Average tiles by slices, one axis after the other."""
    kernel = _pair(kernel_size)
    if not _tiles(x, kernel, stride, padding) or x.dim() != 4:
        return NotImplemented  # type: ignore[no-any-return] # torch then keeps the operator
    nhwc = x.permute(0, 2, 3, 1)
    for axis in (2, 1):
        first, *rest = _split(nhwc, axis, kernel[axis - 1])
        for part in rest:
            first = first + part
        nhwc = first
    divisor = float(divisor_override or kernel[0] * kernel[1])
    return (nhwc / divisor).permute(0, 3, 1, 2)


def avg_pool2d_backward(
    grad_output: Tensor,
    x: Tensor,
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    ceil_mode: bool,
    count_include_pad: bool,
    divisor_override: int | None,
) -> Tensor:
    """Spread each output's gradient evenly over its window."""
    kernel = _pair(kernel_size)
    if not _tiles(x, kernel, stride, padding) or x.dim() != 4:
        return pooling.avg_pool2d_backward(
            grad_output,
            x,
            kernel_size,
            stride,
            padding,
            ceil_mode,
            count_include_pad,
            divisor_override,
        )
    grad = grad_output.permute(0, 2, 3, 1)
    grad = _repeat(grad, 1, kernel[0], 1.0 / float(divisor_override or kernel[0] * kernel[1]))
    return _repeat(grad, 2, kernel[1], 1.0).permute(0, 3, 1, 2)


def _pair(values: Sequence[int]) -> list[int]:
    return list(values) * 2 if len(values) == 1 else list(values)


def _tiles(x: Tensor, kernel: list[int], stride: Sequence[int], padding: Sequence[int]) -> bool:
    """Return whether the windows cover the image once and exactly."""
    return (
        (not stride or _pair(stride) == kernel)
        and not any(padding)
        and int(x.shape[-2]) % kernel[0] == 0
        and int(x.shape[-1]) % kernel[1] == 0
    )


def _split(nhwc: Tensor, axis: int, size: int) -> list[Tensor]:
    """Return the ``size`` elements that each window has along an axis, as ``size`` smaller images."""
    if size == 1:
        return [nhwc]
    shape = list(nhwc.shape)
    inner = 1
    for n in shape[axis + 1 :]:
        inner *= int(n)
    outer = [int(n) for n in shape[:axis]]
    windows = int(shape[axis]) // size
    # Neighbours become stretches of one long last axis, so that a slice copies whole runs of memory.
    flat = nhwc.reshape(*outer, windows, size * inner)
    return [
        aten.slice.Tensor(flat, -1, i * inner, (i + 1) * inner).reshape(
            *outer, windows, *shape[axis + 1 :]
        )
        for i in range(size)
    ]


def _join(parts: list[Tensor], axis: int) -> Tensor:
    """Undo :func:`_split`."""
    if len(parts) == 1:
        return parts[0]
    shape = list(parts[0].shape)
    flat = [part.reshape(*shape[: axis + 1], -1) for part in parts]
    return torch.cat(flat, -1).reshape(
        *shape[:axis], int(shape[axis]) * len(parts), *shape[axis + 1 :]
    )


def _repeat(nhwc: Tensor, axis: int, times: int, scale: float) -> Tensor:
    """Repeat each element along an axis and scale it, in one multiplication that broadcasts."""
    shape = [int(n) for n in nhwc.shape]
    flat = nhwc.reshape(*shape[: axis + 1], 1, -1)
    factors = torch.full((times, 1), scale, dtype=nhwc.dtype)
    return (flat * factors).reshape(*shape[:axis], shape[axis] * times, *shape[axis + 1 :])


def _maximum(parts: list[Tensor]) -> Tensor:
    result = parts[0]
    for part in parts[1:]:
        result = torch.maximum(result, part)
    return result


def _route(grad: Tensor, parts: list[Tensor]) -> list[Tensor]:
    """Hand a gradient to the first maximum of the parts, element by element."""
    shares: list[Tensor] = []
    for index in range(len(parts) - 1, 0, -1):
        share = grad * positive(parts[index] - _maximum(parts[:index]))
        shares.append(share)
        grad = grad - share
    return [grad, *reversed(shares)]
