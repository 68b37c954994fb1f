"""Gradients of convolutions, written out, against autograd in double precision."""

import pytest
import torch
from torch.nn import functional as F  # noqa: N812

from pocketfl_export.decompositions.convolution import (
    convolution_backward,
    weight_gradient_as_convolution,
    weight_gradient_as_products,
)

aten = torch.ops.aten

CASES = {
    "plain": {"image": (3, 2, 9, 8), "weight": (4, 2, 3, 3)},
    "strided": {"image": (3, 2, 9, 8), "weight": (4, 2, 3, 3), "stride": (2, 2), "padding": (1, 1)},
    "uneven stride": {"image": (2, 3, 11, 10), "weight": (4, 3, 3, 2), "stride": (3, 2)},
    "dilated": {
        "image": (2, 3, 11, 12),
        "weight": (4, 3, 3, 3),
        "dilation": (2, 3),
        "padding": (2, 1),
    },
    "1x1": {"image": (2, 3, 5, 5), "weight": (6, 3, 1, 1)},
    "grouped": {"image": (2, 6, 7, 7), "weight": (4, 3, 3, 3), "groups": 2, "padding": (1, 1)},
    "depthwise": {"image": (2, 4, 8, 8), "weight": (8, 1, 3, 3), "groups": 4, "stride": (2, 2)},
    "one dimension": {"image": (3, 2, 17), "weight": (4, 2, 5), "stride": (2,), "padding": (2,)},
    "three dimensions": {"image": (2, 2, 5, 6, 4), "weight": (3, 2, 2, 3, 2), "padding": (1, 0, 1)},
    "large kernel": {"image": (2, 3, 11, 9), "weight": (4, 3, 5, 3), "padding": (2, 1)},
    "1x1, strided": {"image": (2, 3, 6, 6), "weight": (4, 3, 1, 1), "stride": (2, 2)},
    "transposed": {
        "image": (2, 3, 5, 5),
        "weight": (3, 4, 3, 3),
        "transposed": True,
        "stride": (2, 2),
        "padding": (1, 1),
        "output_padding": (1, 1),
    },
    "transposed, grouped": {
        "image": (2, 4, 5, 5),
        "weight": (4, 3, 3, 3),
        "transposed": True,
        "groups": 2,
        "stride": (2, 1),
    },
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_gradients_equal_autograd(case: dict) -> None:
    """Input, weight and bias gradients equal autograd's to 1e-12."""
    torch.manual_seed(0)
    dims = len(case["image"]) - 2
    stride = case.get("stride", (1,) * dims)
    padding = case.get("padding", (0,) * dims)
    dilation = case.get("dilation", (1,) * dims)
    extra = case.get("output_padding", (0,) * dims)
    transposed, groups = case.get("transposed", False), case.get("groups", 1)
    image = torch.randn(case["image"], dtype=torch.float64, requires_grad=True)
    weight = torch.randn(case["weight"], dtype=torch.float64, requires_grad=True)
    channels = case["weight"][1] * groups if transposed else case["weight"][0]
    bias = torch.randn(channels, dtype=torch.float64, requires_grad=True)
    output = aten.convolution(
        image, weight, bias, stride, padding, dilation, transposed, extra, groups
    )
    gradient = torch.randn_like(output)
    expected = torch.autograd.grad(output, (image, weight, bias), gradient)

    found = convolution_backward(
        gradient,
        image.detach(),
        weight.detach(),
        [channels],
        stride,
        padding,
        dilation,
        transposed,
        extra,
        groups,
        [True, True, True],
    )

    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_only_what_is_asked_for_is_computed() -> None:
    """A mask of False gives None, so that frozen layers cost nothing."""
    image, weight = torch.randn(1, 2, 5, 5), torch.randn(3, 2, 3, 3)
    gradient = torch.randn(1, 3, 3, 3)
    mask = [False, True, False]
    found = convolution_backward(
        gradient, image, weight, None, [1, 1], [0, 0], [1, 1], False, [0, 0], 1, mask
    )
    assert [value is not None for value in found] == mask


def test_both_forms_of_the_weight_gradient_agree() -> None:
    """One big convolution and one matrix product are the same sum."""
    torch.manual_seed(0)
    image = torch.randn(3, 2, 9, 9, dtype=torch.float64)
    gradient = torch.randn_like(
        F.conv2d(image, torch.randn(4, 2, 3, 3).double(), stride=2, padding=1)
    )
    shape = ([3, 3], [2, 2], [1, 1], [1, 1])
    torch.testing.assert_close(
        weight_gradient_as_convolution(image, gradient, *shape),
        weight_gradient_as_products(image, gradient, *shape, 1),
    )
