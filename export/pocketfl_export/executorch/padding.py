"""Padding by negative amounts: the gradient of any padding, and refused by ExecuTorch's kernels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

aten = torch.ops.aten


def constant_pad_nd(x: Tensor, pad: Sequence[int], value: float = 0.0) -> Tensor:
    """Cut off what is negative, then pad with what is positive.

    Parameters
    ----------
    pad : sequence of int
        Amounts before and after, last axis first, as torch orders them.
    """
    if all(amount >= 0 for amount in pad):
        return NotImplemented  # type: ignore[no-any-return] # torch then keeps the operator
    for index in range(len(pad) // 2):
        before, after = pad[2 * index], pad[2 * index + 1]
        axis = x.dim() - 1 - index
        start, stop = max(0, -before), int(x.shape[axis]) - max(0, -after)
        if (start, stop) != (0, int(x.shape[axis])):
            x = aten.slice.Tensor(x, axis, start, stop)
    rest = [max(0, amount) for amount in pad]
    # Slices alone would be a view, which a pure function of tensors may not return.
    result: Tensor = aten.constant_pad_nd.default(x, rest, value) if any(rest) else x.clone()
    return result
