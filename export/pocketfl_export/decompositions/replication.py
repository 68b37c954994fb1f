"""Gradient of padding with copies of the border: what the copies receive goes to the border."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def replication_pad_backward(grad_output: Tensor, x: Tensor, padding: Sequence[int]) -> Tensor:
    """Return the gradient for one or two padded axes, by a product with a 0/1 matrix for each."""
    pairs = list(zip(padding[::2], padding[1::2], strict=True))
    before, after = (int(n) for n in pairs[0])
    grad = grad_output @ _copies(int(x.shape[-1]), before, after, grad_output.dtype)
    if len(pairs) == 2:
        above, below = (int(n) for n in pairs[1])
        grad = _copies(int(x.shape[-2]), above, below, grad_output.dtype).t() @ grad
    return grad


def _copies(size: int, before: int, after: int, dtype: torch.dtype) -> Tensor:
    """Return which input each output repeats, ``[outputs, inputs]``."""
    sources = [min(max(i - before, 0), size - 1) for i in range(size + before + after)]
    return torch.tensor(
        [[float(i == source) for i in range(size)] for source in sources], dtype=dtype
    )
