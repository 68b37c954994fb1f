"""Gradients of pooling, written out, against autograd in double precision."""

import pytest
import torch
from torch.nn import functional as F  # noqa: N812

from pocketfl_export.decompositions import pooling

POOLS = {
    "tiles": {"size": (8, 6), "kernel": (2, 2), "stride": (2, 2)},
    "tiles with a remainder": {"size": (9, 7), "kernel": (2, 3), "stride": (2, 3)},
    "overlapping": {"size": (9, 8), "kernel": (3, 3), "stride": (2, 2), "padding": (1, 1)},
    "stride beyond kernel": {"size": (9, 9), "kernel": (2, 2), "stride": (3, 3)},
    "ceil mode": {"size": (7, 8), "kernel": (2, 2), "stride": (2, 2), "ceil_mode": True},
    "ceil mode, overlapping": {
        "size": (8, 8),
        "kernel": (3, 3),
        "stride": (2, 2),
        "padding": (1, 1),
        "ceil_mode": True,
    },
    "one row": {"size": (1, 12), "kernel": (1, 2), "stride": (1, 2)},
}


def image(size: tuple[int, int]) -> torch.Tensor:
    # Few different values, so that windows have ties.
    generator = torch.Generator().manual_seed(0)
    values = torch.randint(0, 4, (2, 3, *size), generator=generator).double()
    return values.requires_grad_()


@pytest.mark.parametrize("case", POOLS.values(), ids=POOLS.keys())
def test_max_pooling_gradient_equals_autograd_even_with_ties(case: dict) -> None:
    """The first maximum of a window takes the whole gradient, as in torch."""
    x = image(case["size"])
    padding, ceil_mode = case.get("padding", (0, 0)), case.get("ceil_mode", False)
    output, indices = F.max_pool2d(
        x, case["kernel"], case["stride"], padding, ceil_mode=ceil_mode, return_indices=True
    )
    gradient = torch.randn_like(output)
    (expected,) = torch.autograd.grad(output, x, gradient)
    found = pooling.max_pool2d_backward(
        gradient, x.detach(), case["kernel"], case["stride"], padding, [1, 1], ceil_mode, indices
    )
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


@pytest.mark.parametrize("include_pad", [True, False])
@pytest.mark.parametrize("divisor", [None, 5])
@pytest.mark.parametrize("case", POOLS.values(), ids=POOLS.keys())
def test_average_pooling_gradient_equals_autograd(
    case: dict, divisor: int | None, include_pad: bool
) -> None:
    """Every combination of padding, rounding and divisor spreads the gradient as torch does."""
    x = image(case["size"])
    padding, ceil_mode = case.get("padding", (0, 0)), case.get("ceil_mode", False)
    output = F.avg_pool2d(
        x, case["kernel"], case["stride"], padding, ceil_mode, include_pad, divisor
    )
    gradient = torch.randn_like(output)
    (expected,) = torch.autograd.grad(output, x, gradient)
    found = pooling.avg_pool2d_backward(
        gradient,
        x.detach(),
        case["kernel"],
        case["stride"],
        padding,
        ceil_mode,
        include_pad,
        divisor,
    )
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("output_size", [(1, 1), (2, 4), (3, 5), (7, 8)])
def test_adaptive_pooling_equals_torch_both_ways(output_size: tuple[int, int]) -> None:
    """Equal and unequal windows, forward and backward."""
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64, requires_grad=True)
    output = F.adaptive_avg_pool2d(x, output_size)
    gradient = torch.randn_like(output)
    (expected,) = torch.autograd.grad(output, x, gradient)
    torch.testing.assert_close(
        pooling.adaptive_avg_pool2d(x.detach(), output_size), output.detach()
    )
    torch.testing.assert_close(pooling.adaptive_avg_pool2d_backward(gradient, x.detach()), expected)
