"""Gradients of activations in the operators that XNNPACK has; it has no comparison and no choice."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

HUGE: Final = 3e38
"""Takes every normal float32 above 0 beyond 1, the smallest (1.2e-38) included."""


def positive(x: Tensor) -> Tensor:
    """Return 1.0 where ``x > 0`` and 0.0 elsewhere; exact for all but subnormal numbers."""
    return (x * HUGE).clamp(0.0, 1.0)


def threshold_backward(grad_output: Tensor, x: Tensor, threshold: float) -> Tensor:
    """Gradient of ReLU: ``grad`` where ``x > threshold``, 0 elsewhere, 0 at the kink as in torch."""
    if x.dtype != torch.float32:
        return torch.where(x > threshold, grad_output, 0.0)
    return grad_output * positive(x if threshold == 0 else x - threshold)
