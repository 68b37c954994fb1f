"""Formulas for ExecuTorch alone, against autograd in double precision."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch.nn import functional as F  # noqa: N812

from pocketfl_export.executorch import (
    activations,
    convolution,
    depthwise,
    normalization,
    pooling,
)

aten = torch.ops.aten

# kernel, stride, padding, dilation, groups, transposed, output padding
WINDOWS = {
    "plain": (3, 1, 0, 1, 1, False, 0),
    "padded": (3, 1, 1, 1, 1, False, 0),
    "strided": (3, 2, 1, 1, 1, False, 0),
    "1x1": (1, 1, 0, 1, 1, False, 0),
    "1x1 strided": (1, 2, 0, 1, 1, False, 0),
    "stride equal to the kernel": (2, 2, 0, 1, 1, False, 0),
    "stride above the kernel": (2, 3, 0, 1, 1, False, 0),
    "large, uneven": (5, 3, 2, 1, 1, False, 0),
    "dilated": (3, 1, 2, 2, 1, False, 0),
    "dilated, strided, grouped": (3, 2, 0, 2, 2, False, 0),
    "padded beyond the kernel": (2, 1, 2, 1, 1, False, 0),
    "depthwise": (3, 1, 1, 1, 4, False, 0),
    "depthwise, strided": (3, 2, 1, 1, 4, False, 0),
    "transposed": (3, 1, 1, 1, 1, True, 0),
    "transposed, strided": (3, 2, 1, 1, 1, True, 1),
    "transposed, grouped": (3, 2, 1, 1, 2, True, 1),
}


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("window", WINDOWS.values(), ids=WINDOWS)
def test_convolutions_and_their_gradients(window: tuple, dims: int) -> None:
    """Output and the gradients of input, weight and bias equal torch's, in any number of dimensions."""
    kernel, stride, padding, dilation, groups, transposed, extra = window
    torch.manual_seed(0)
    channels, out = 4, 4 if groups == 4 else 6
    shape = (channels, out // groups) if transposed else (out, channels // groups)
    x = torch.randn(2, channels, *[9, 8, 7][:dims], dtype=torch.double, requires_grad=True)
    weight = torch.randn(*shape, *[kernel] * dims, dtype=torch.double, requires_grad=True)
    bias = torch.randn(out, dtype=torch.double, requires_grad=True)
    rest = ([stride], [padding], [dilation], transposed, [extra], groups)
    arguments = tuple(a * dims if isinstance(a, list) else a for a in rest)
    expected = aten.convolution(x, weight, bias, *arguments)
    grad = torch.randn_like(expected)
    found = convolution.convolution(x, weight, bias, *arguments)
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)
    gradients = convolution.convolution_backward(
        grad, x, weight, [out], *arguments, [True, True, True]
    )
    for ours, theirs in zip(
        gradients, torch.autograd.grad(expected, (x, weight, bias), grad), strict=True
    ):
        torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=0)


@pytest.mark.parametrize("stride", [1, 2])
def test_depthwise_convolutions_of_long_and_of_short_lines(stride: int) -> None:
    """Lines too long for a band matrix go another way; both equal torch's."""
    torch.manual_seed(0)
    for length in (depthwise.LONGEST_LINE // 2, 2 * depthwise.LONGEST_LINE * stride):
        x = torch.randn(2, 3, 4, length, dtype=torch.double, requires_grad=True)
        weight = torch.randn(3, 1, 3, 5, dtype=torch.double, requires_grad=True)
        rest = ([1, stride], [1, 3], [1, 2], False, [0, 0], 3)
        expected = aten.convolution(x, weight, None, *rest)
        grad = torch.randn_like(expected)
        found = convolution.convolution(x, weight, None, *rest)
        torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)
        ours = convolution.convolution_backward(grad, x, weight, None, *rest, [True, True, False])
        theirs = torch.autograd.grad(expected, (x, weight), grad)
        torch.testing.assert_close(ours[:2], theirs, atol=1e-12, rtol=0)


def test_only_the_gradients_asked_for_are_computed() -> None:
    """The first layer's input needs none, and is the costliest."""
    x, weight = torch.randn(1, 2, 5), torch.randn(3, 2, 3)
    grads = convolution.convolution_backward(
        torch.randn(1, 3, 3), x, weight, [3], [1], [0], [1], False, [0], 1, [False, True, False]
    )
    assert grads[0] is None
    assert grads[1].shape == weight.shape
    assert grads[2] is None


@pytest.mark.parametrize("kernel", [(2, 2), (1, 3), (3, 2), (2, 1)])
@pytest.mark.parametrize("ties", [False, True], ids=["no ties", "ties"])
def test_max_pooling_of_tiles(kernel: tuple[int, int], ties: bool) -> None:
    """Values and gradients equal torch's, which gives a tie to the first in row-major order."""
    torch.manual_seed(0)
    x = torch.randn(2, 3, 6, 6, dtype=torch.double)
    if ties:
        x = (x * 2).round() / 2
    x.requires_grad_()
    expected = F.max_pool2d(x, kernel)
    grad = torch.randn_like(expected)
    values, indices = pooling.max_pool2d_with_indices(x, kernel)
    torch.testing.assert_close(values, expected, atol=0, rtol=0)
    found = pooling.max_pool2d_backward(grad, x, kernel, [], [0], [1], False, indices)
    (theirs,) = torch.autograd.grad(expected, x, grad)
    torch.testing.assert_close(found, theirs, atol=1e-15, rtol=0)


@pytest.mark.parametrize("kernel", [(2, 2), (1, 3), (3, 2)])
@pytest.mark.parametrize("divisor", [None, 5])
def test_average_pooling_of_tiles(kernel: tuple[int, int], divisor: int | None) -> None:
    """Values and gradients equal torch's, with any divisor."""
    torch.manual_seed(0)
    x = torch.randn(2, 3, 6, 6, dtype=torch.double, requires_grad=True)
    expected = F.avg_pool2d(x, kernel, divisor_override=divisor)
    grad = torch.randn_like(expected)
    found = pooling.avg_pool2d(x, kernel, divisor_override=divisor)
    torch.testing.assert_close(found, expected, atol=1e-14, rtol=0)
    backward = pooling.avg_pool2d_backward(grad, x, kernel, [], [0], False, True, divisor)
    (theirs,) = torch.autograd.grad(expected, x, grad)
    torch.testing.assert_close(backward, theirs, atol=1e-14, rtol=0)


@pytest.mark.parametrize(
    ("size", "stride", "padding"), [((5, 6), [2], [0]), ((6, 6), [1], [0]), ((6, 6), [2], [1])]
)
def test_windows_that_do_not_tile_are_left_to_the_general_form(
    size: tuple[int, int], stride: list[int], padding: list[int]
) -> None:
    """Overlapping, ragged and padded windows are not taken for tiles."""
    x = torch.randn(1, 1, *size)
    assert pooling.max_pool2d_with_indices(x, [2], stride, padding) is NotImplemented
    assert pooling.avg_pool2d(x, [2], stride, padding) is NotImplemented


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize(("spatial", "groups"), [((5, 3), 2), ((7,), 3), ((4, 4), 6), ((2, 3), 1)])
def test_group_normalisation(spatial: tuple[int, ...], groups: int, affine: bool) -> None:
    """Output, statistics and gradients equal torch's, of images and series far from zero."""
    torch.manual_seed(0)
    x = 50 + torch.randn(3, 6, *spatial, dtype=torch.double)
    weight, bias = torch.randn(2, 6, dtype=torch.double) if affine else (None, None)
    sizes = (3, 6, x[0, 0].numel(), groups)
    expected = aten.native_group_norm(x, weight, bias, *sizes, 1e-5)
    found = normalization.native_group_norm(x, weight, bias, *sizes, 1e-5)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-11, rtol=0)
    grad = torch.randn_like(x)
    given = (grad, x, *expected[1:], weight, *sizes, [True, affine, affine])
    for ours, theirs in zip(
        normalization.native_group_norm_backward(*given),
        aten.native_group_norm_backward(*given),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, atol=1e-10, rtol=0)


def test_the_mask_of_a_relu_is_exact() -> None:
    """1 above 0 and 0 elsewhere, down to the smallest normal number and up to infinity."""
    tiny = torch.finfo(torch.float32).tiny
    x = torch.tensor([-torch.inf, -1.0, -tiny, -0.0, 0.0, tiny, 1e-20, 1.0, 3e38, torch.inf])
    assert activations.positive(x).tolist() == [0, 0, 0, 0, 0, 1, 1, 1, 1, 1]


@pytest.mark.parametrize(
    ("dtype", "threshold"), itertools.product(["float32", "float64"], [0, 0.3])
)
def test_the_gradient_of_a_threshold(dtype: str, threshold: float) -> None:
    """Equal to torch's own, on both sides of the kink and on it."""
    x = torch.tensor([-1.0, 0.0, 0.2, 0.3, 0.4, 2.0], dtype=getattr(torch, dtype))
    grad = torch.arange(1.0, 7.0, dtype=x.dtype)
    expected = aten.threshold_backward(grad, x, threshold)
    found = activations.threshold_backward(grad, x, threshold)
    torch.testing.assert_close(found, expected, atol=0, rtol=0)


@pytest.mark.parametrize(
    ("dtype", "bounds"), itertools.product(["float32", "float64"], [(0.0, 6.0), (-1.0, 0.3)])
)
def test_the_gradient_of_a_hard_tanh(dtype: str, bounds: tuple[float, float]) -> None:
    """Equal to torch's own: between the bounds, outside and on them."""
    inside = torch.tensor([-torch.inf, -2.0, -0.5, 0.0, 0.2, 1.0, 7.0, torch.inf])
    x = torch.cat([inside, torch.tensor(bounds)]).to(getattr(torch, dtype))
    grad = torch.arange(1.0, 1.0 + len(x), dtype=x.dtype)
    expected = aten.hardtanh_backward(grad, x, *bounds)
    found = activations.hardtanh_backward(grad, x, *bounds)
    torch.testing.assert_close(found, expected, atol=0, rtol=0)


def test_the_two_forms_of_gelu() -> None:
    """XNNPACK knows only the exact one, so the other is written out."""
    x = torch.linspace(-4, 4, 101, dtype=torch.double)
    found = activations.gelu(x, approximate="tanh")
    torch.testing.assert_close(found, F.gelu(x, approximate="tanh"), atol=1e-15, rtol=0)
    assert activations.gelu(x) is NotImplemented
