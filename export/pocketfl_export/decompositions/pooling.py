"""Gradients of pooling, exact in torch's own way of breaking ties.

ExecuTorch's kernel for the max-pooling gradient does not clear its output first (pytorch/executorch
issue 21686) and ONNX has no gradient of either pooling.
"""

# ruff: noqa: PLR0917 - the arguments of an ATen operator are positional

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

aten = torch.ops.aten


def _pair(values: Sequence[int], default: Sequence[int] = ()) -> list[int]:
    chosen = list(values) or list(default)
    return chosen * 2 if len(chosen) == 1 else chosen


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
    """Route each output's gradient to the first maximum of its window.

    Windows that do not overlap compare slices of the input with the maximum; overlapping ones add into
    the positions that the forward pass recorded.
    """
    kernel = _pair(kernel_size)
    step = _pair(stride, kernel)
    plain = _pair(padding) == [0, 0] and _pair(dilation) == [1, 1]
    height, width = int(x.shape[-2]), int(x.shape[-1])
    rows, columns = int(grad_output.shape[-2]), int(grad_output.shape[-1])
    if step == kernel and plain and rows * kernel[0] <= height and columns * kernel[1] <= width:
        return _max_pool_tiles(grad_output, x, kernel)
    lead = list(x.shape[:-2])
    zeros = torch.zeros_like(x).reshape(*lead, height * width)
    flat = aten.scatter_add.default(
        zeros, -1, indices.reshape(*lead, -1), grad_output.reshape(*lead, -1)
    )
    result: Tensor = flat.reshape(x.shape)
    return result


def _max_pool_tiles(grad_output: Tensor, x: Tensor, kernel: list[int]) -> Tensor:
    lead = list(x.shape[:-2])
    height, width = int(x.shape[-2]), int(x.shape[-1])
    rows, columns = int(grad_output.shape[-2]), int(grad_output.shape[-1])
    tall, wide = kernel
    used = x[..., : rows * tall, : columns * wide].reshape(*lead, rows, tall, columns, wide)
    slices = [used[..., i, :, j] for i in range(tall) for j in range(wide)]
    # The forward pass again, which the simplifier shares with the one that was traced.
    maximum = aten.max_pool2d_with_indices.default(x, kernel, kernel)[0]
    pieces: list[Tensor] = []
    taken: Tensor | None = None
    for part in slices:
        is_maximum = part == maximum
        first = is_maximum if taken is None else is_maximum & ~taken
        taken = is_maximum if taken is None else taken | is_maximum
        pieces.append(torch.where(first, grad_output, 0.0))
    lines = [torch.stack(pieces[i * wide : (i + 1) * wide], -1) for i in range(tall)]
    result = torch.stack(lines, -3).reshape(*lead, rows * tall, columns * wide)
    return _pad_end(result, height, width)


def avg_pool2d(
    x: Tensor,
    kernel_size: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] = (0,),
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Tensor:
    """Average pooling as ``A x B^T`` where runtimes divide by another number than torch.

    ONNX Runtime's operator counts elements beyond the image where ``ceil_mode`` lets a window reach
    there, and knows no divisor of the caller's own.
    """
    if not ceil_mode and divisor_override is None:
        return NotImplemented  # type: ignore[no-any-return] # torch then keeps the operator
    kernel, offset = _pair(kernel_size), _pair(padding)
    step = _pair(stride, kernel)
    sizes = [int(x.shape[-2]), int(x.shape[-1])]
    windows = [
        _window_count(n, k, s, p, ceil_mode)
        for n, k, s, p in zip(sizes, kernel, step, offset, strict=True)
    ]
    (vertical, tall), (horizontal, wide) = (
        _window_matrix(n, w, k, s, p, count_include_pad, x.dtype)
        for n, w, k, s, p in zip(sizes, windows, kernel, step, offset, strict=True)
    )
    divisors = tall.unsqueeze(1) * wide.unsqueeze(0)
    if divisor_override is not None:
        divisors = torch.full(windows, float(divisor_override), dtype=x.dtype)
    return vertical @ x @ horizontal.t() / divisors


def _window_count(size: int, kernel: int, stride: int, padding: int, ceil_mode: bool) -> int:
    room = size + 2 * padding - kernel
    count = (-(-room // stride) if ceil_mode else room // stride) + 1
    # A window that begins in the padding at the end is left out.
    return count - 1 if (count - 1) * stride >= size + padding else count


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
    """Spread each output's gradient over its window, divided by what the forward pass divided by.

    Windows that tile the input repeat it. Others multiply from both sides with the constant matrix of
    the forward pass, transposed: average pooling is ``A x B^T`` and its gradient ``A^T g B``.
    """
    kernel, offset = _pair(kernel_size), _pair(padding)
    step = _pair(stride, kernel)
    height, width = int(x.shape[-2]), int(x.shape[-1])
    rows, columns = int(grad_output.shape[-2]), int(grad_output.shape[-1])
    if (
        step == kernel
        and offset == [0, 0]
        and rows * kernel[0] <= height
        and columns * kernel[1] <= width
    ):
        divisor = float(divisor_override or kernel[0] * kernel[1])
        return _pad_end(_repeat(grad_output / divisor, kernel), height, width)
    vertical, tall = _window_matrix(
        height, rows, kernel[0], step[0], offset[0], count_include_pad, grad_output.dtype
    )
    horizontal, wide = _window_matrix(
        width, columns, kernel[1], step[1], offset[1], count_include_pad, grad_output.dtype
    )
    divisors = (
        torch.full((rows, columns), float(divisor_override), dtype=grad_output.dtype)
        if divisor_override
        else tall.unsqueeze(1) * wide.unsqueeze(0)
    )
    return vertical.t() @ (grad_output / divisors) @ horizontal


def adaptive_avg_pool2d_backward(grad_output: Tensor, x: Tensor) -> Tensor:
    """Gradient of ``_adaptive_avg_pool2d``; windows as in :func:`_adaptive_matrix`."""
    height, width = int(x.shape[-2]), int(x.shape[-1])
    rows, columns = int(grad_output.shape[-2]), int(grad_output.shape[-1])
    if height % rows == 0 and width % columns == 0:
        kernel = [height // rows, width // columns]
        return _repeat(grad_output / float(kernel[0] * kernel[1]), kernel)
    vertical = _adaptive_matrix(height, rows, grad_output.dtype)
    horizontal = _adaptive_matrix(width, columns, grad_output.dtype)
    return vertical.t() @ grad_output @ horizontal


def adaptive_avg_pool2d(x: Tensor, output_size: Sequence[int]) -> Tensor:
    """Adaptive average pooling: plain pooling where the windows are equal, else two products."""
    height, width = int(x.shape[-2]), int(x.shape[-1])
    rows, columns = _pair(output_size)
    if height % rows == 0 and width % columns == 0:
        kernel = [height // rows, width // columns]
        result: Tensor = aten.avg_pool2d.default(x, kernel, kernel)
        return result
    vertical = _adaptive_matrix(height, rows, x.dtype)
    horizontal = _adaptive_matrix(width, columns, x.dtype)
    return vertical @ x @ horizontal.t()


def _repeat(values: Tensor, kernel: list[int]) -> Tensor:
    # Concatenation, because ONNX Runtime's Expand is slow for this.
    *lead, rows, columns = values.shape
    tall, wide = kernel
    lines = torch.stack([values] * wide, -1).reshape(*lead, rows, columns * wide)
    return torch.stack([lines] * tall, -2).reshape(*lead, rows * tall, columns * wide)


def _pad_end(values: Tensor, height: int, width: int) -> Tensor:
    missing = [0, width - int(values.shape[-1]), 0, height - int(values.shape[-2])]
    if not any(missing):
        return values
    result: Tensor = aten.constant_pad_nd.default(values, missing, 0.0)
    return result


def _window_matrix(
    size: int,
    windows: int,
    kernel: int,
    stride: int,
    padding: int,
    include_pad: bool,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:
    """Return which input each window covers, ``[windows, size]``, and each window's divisor."""
    covered, divisors = [], []
    for window in range(windows):
        start = window * stride - padding
        # Positions beyond the padding never count, even where ceil_mode lets a window reach there.
        stop = min(start + kernel, size + padding)
        inside = range(max(start, 0), min(stop, size))
        covered.append([1.0 if i in inside else 0.0 for i in range(size)])
        divisors.append(float(stop - start if include_pad else len(inside)))
    return torch.tensor(covered, dtype=dtype), torch.tensor(divisors, dtype=dtype)


def _adaptive_matrix(size: int, windows: int, dtype: torch.dtype) -> Tensor:
    """Return the averages of windows ``[floor(i n / m), ceil((i + 1) n / m))``, ``[windows, size]``."""
    lines = []
    for window in range(windows):
        start = window * size // windows
        stop = -(-(window + 1) * size // windows)
        lines.append([1.0 / (stop - start) if start <= i < stop else 0.0 for i in range(size)])
    return torch.tensor(lines, dtype=dtype)
