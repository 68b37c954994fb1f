"""Activations and their gradients in the operators that XNNPACK computes, and computes rightly."""

from __future__ import annotations

import math
from typing import Final

import torch
from torch import Tensor

HUGE: Final = 3e38
"""Takes every normal float32 above 0 beyond 1, the smallest (1.2e-38) included."""


def positive(x: Tensor) -> Tensor:
    """Return 1.0 where ``x > 0`` and 0.0 elsewhere; exact for all but subnormal numbers."""
    return (x * HUGE).clamp(0.0, 1.0)


def threshold_backward(grad_output: Tensor, x: Tensor, threshold: float) -> Tensor:
    """Gradient of ReLU: ``grad`` where ``x > threshold``, 0 elsewhere, 0 at the kink as in torch.

    XNNPACK has no comparison and no choice, hence the arithmetic.
    """
    if x.dtype != torch.float32:
        return torch.where(x > threshold, grad_output, 0.0)
    return grad_output * positive(x if threshold == 0 else x - threshold)


def hardtanh_backward(grad_output: Tensor, x: Tensor, low: float, high: float) -> Tensor:
    """Gradient of ReLU6 and its like: ``grad`` where ``low < x < high``, 0 elsewhere as in torch."""
    if x.dtype != torch.float32:
        return torch.where((x <= low) | (x >= high), 0.0, grad_output)
    above = x if low == 0 else x - low
    return grad_output * positive(torch.minimum(above, high - x))


def gelu(x: Tensor, approximate: str = "none") -> Tensor:
    """GELU by its approximation with tanh (Hendrycks and Gimpel, arXiv 1606.08415, section 2).

    XNNPACK's delegate computes the exact form whichever is asked for.
    """
    if approximate != "tanh":
        return NotImplemented  # type: ignore[no-any-return] # torch then keeps the operator
    inner = math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x)
    return 0.5 * x * (1 + torch.tanh(inner))
