"""Gradients of activations against autograd in double precision."""

import pytest
import torch
from torch.nn import functional as F  # noqa: N812

from pocketfl_export.decompositions.activations import threshold_backward


@pytest.mark.parametrize("threshold", [0.0, 0.5])
def test_threshold_gradient_equals_autograd_at_the_kink_too(threshold: float) -> None:
    """At the threshold itself the gradient is 0, as in torch."""
    x = torch.tensor([-1.0, 0.0, 0.25, 0.5, 2.0], dtype=torch.float64, requires_grad=True)
    gradient = torch.arange(1.0, 6.0, dtype=torch.float64)
    (expected,) = torch.autograd.grad(F.threshold(x, threshold, 0.0), x, gradient)
    torch.testing.assert_close(threshold_backward(gradient, x.detach(), threshold), expected)
