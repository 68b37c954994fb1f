"""Writing into a slice, and its special case: the gradient of reading one.

A slice of step 1 is padded back to its place; a larger step first spreads the elements apart by padding
a new axis, since no runtime has a strided write.
"""

# ruff: noqa: PLR0917 - the arguments of an ATen operator are positional

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

aten = torch.ops.aten


def slice_backward(
    grad_output: Tensor, input_sizes: Sequence[int], dim: int, start: int, end: int, step: int
) -> Tensor:
    """Gradient of ``x[start:end:step]`` along ``dim``: zeros but for the slice."""
    length = int(input_sizes[dim])
    first, _ = _bounds(start, end, length)
    return _place(grad_output, dim % len(input_sizes), length, first, step)


def select_backward(
    grad_output: Tensor, input_sizes: Sequence[int], dim: int, index: int
) -> Tensor:
    """Gradient of ``x.select(dim, index)``: zeros but for the one slice."""
    axis = dim % len(input_sizes)
    length = int(input_sizes[axis])
    return _place(grad_output.unsqueeze(axis), axis, length, index % length, 1)


def slice_scatter(
    x: Tensor,
    source: Tensor,
    dim: int = 0,
    start: int | None = None,
    end: int | None = None,
    step: int = 1,
) -> Tensor:
    """Copy of ``x`` in which ``source`` fills the slice."""
    axis, length = dim % x.dim(), int(x.shape[dim])
    first, last = _bounds(start, end, length)
    if step == 1:
        before = aten.slice.Tensor(x, axis, 0, first)
        after = aten.slice.Tensor(x, axis, last, length)
        parts = [part for part in (before, source, after) if part.shape[axis] > 0]
        return torch.cat(parts, axis)
    inside = [first <= i < last and (i - first) % step == 0 for i in range(length)]
    mask = torch.tensor(inside).reshape([-1 if d == axis else 1 for d in range(x.dim())])
    return torch.where(mask, _place(source, axis, length, first, step), x)


def _bounds(start: int | None, end: int | None, length: int) -> tuple[int, int]:
    def position(value: int | None, default: int) -> int:
        if value is None:
            return default
        return min(max(value + length if value < 0 else value, 0), length)

    first = position(start, 0)
    return first, max(position(end, length), first)


def _place(source: Tensor, axis: int, length: int, first: int, step: int) -> Tensor:
    """Return zeros of ``length`` along ``axis`` with ``source`` at ``first, first + step, ...``."""
    if step > 1:
        spread = _pad(source.unsqueeze(axis + 1), axis + 1, 0, step - 1)
        shape = list(source.shape)
        shape[axis] = int(source.shape[axis]) * step
        source = spread.reshape(shape)
        room = length - first
        if source.shape[axis] > room:
            source = aten.slice.Tensor(source, axis, 0, room)
    return _pad(source, axis, first, length - first - int(source.shape[axis]))


def _pad(x: Tensor, axis: int, before: int, after: int) -> Tensor:
    if before == after == 0:
        return x
    amounts = [0, 0] * (x.dim() - 1 - axis) + [before, after]
    result: Tensor = aten.constant_pad_nd.default(x, amounts, 0.0)
    return result
