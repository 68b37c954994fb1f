"""Gradients of activations that the shared tables of torch write in a costlier way."""

from __future__ import annotations

import torch
from torch import Tensor


def threshold_backward(grad_output: Tensor, x: Tensor, threshold: float) -> Tensor:
    """Gradient of ReLU: ``grad`` where ``x > threshold``, 0 elsewhere, 0 at the kink as in torch."""
    return torch.where(x > threshold, grad_output, 0.0)


def shrink_backward(grad_output: Tensor, x: Tensor, lambd: float) -> Tensor:
    """Gradient of soft and hard shrinkage: 0 where ``|x| <= lambda``."""
    return torch.where(x.abs() > lambd, grad_output, 0.0)
