"""Gradients of convolutions, for runtimes that only have the forward ones.

Formulas: Dumoulin and Visin, "A guide to convolution arithmetic for deep learning" (arXiv 1603.07285),
section 4, for the input; the weight gradient is itself a convolution of the input with the output
gradient in which stride and dilation change places.
"""

# ruff: noqa: PLR0917 - the arguments of an ATen operator are positional

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

aten = torch.ops.aten

FEW_TAPS = 9
"""Kernels up to this size train faster by matrix products of patches than by one large convolution."""

Gradients = tuple[Tensor | None, Tensor | None, Tensor | None]


def convolution_backward(
    grad_output: Tensor,
    x: Tensor,
    weight: Tensor,
    bias_sizes: Sequence[int] | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
    output_mask: Sequence[bool],
) -> Gradients:
    """Compute the gradients of ``aten.convolution``; shapes ``[N, C, *spatial]``, any rank.

    Returns
    -------
    tuple of Tensor or None
        Gradients of input, weight and bias where ``output_mask`` asks for them.
    """
    dims = weight.dim() - 2
    stride, padding, dilation = (_spread(v, dims) for v in (stride, padding, dilation))
    grad_input = grad_weight = grad_bias = None
    if output_mask[0]:
        if transposed:
            grad_input = aten.convolution.default(
                grad_output, weight, None, stride, padding, dilation, False, [0] * dims, groups
            )
        else:
            grad_input = _input_gradient(grad_output, x, weight, stride, padding, dilation, groups)
    if output_mask[1]:
        # A transposed convolution is the gradient of a plain one: input and output change places.
        image, kernel = (grad_output, x) if transposed else (x, grad_output)
        size = list(weight.shape[2:])
        if 1 < groups == int(image.shape[1]) == int(kernel.shape[1]):
            grad_weight = weight_gradient_as_grouped_convolution(
                image, kernel, size, stride, padding, dilation
            )
        elif groups == 1 and math.prod(size) > FEW_TAPS:
            grad_weight = weight_gradient_as_convolution(
                image, kernel, size, stride, padding, dilation
            )
        else:
            grad_weight = weight_gradient_as_products(
                image, kernel, size, stride, padding, dilation, groups
            )
    if output_mask[2]:
        grad_bias = grad_output.sum([0, *range(2, 2 + dims)])
    return grad_input, grad_weight, grad_bias


def _spread(values: Sequence[int], dims: int) -> list[int]:
    return list(values) * dims if len(values) == 1 else list(values)


def _input_gradient(
    grad_output: Tensor,
    x: Tensor,
    weight: Tensor,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
) -> Tensor:
    extra = [
        int(x.shape[2 + d])
        - (
            (int(grad_output.shape[2 + d]) - 1) * stride[d]
            - 2 * padding[d]
            + dilation[d] * (int(weight.shape[2 + d]) - 1)
            + 1
        )
        for d in range(len(stride))
    ]
    result: Tensor = aten.convolution.default(
        grad_output, weight, None, stride, padding, dilation, True, extra, groups
    )
    return result


def weight_gradient_as_convolution(
    image: Tensor,
    kernel: Tensor,
    kernel_size: list[int],
    stride: list[int],
    padding: list[int],
    dilation: list[int],
) -> Tensor:
    """Return ``[kernel channels, image channels, *kernel_size]`` by one convolution; one group."""
    result = aten.convolution.default(
        image.transpose(0, 1),
        kernel.transpose(0, 1),
        None,
        dilation,
        padding,
        stride,
        False,
        [0] * len(stride),
        1,
    )
    return _first_taps(result, kernel_size).transpose(0, 1)


def weight_gradient_as_grouped_convolution(
    image: Tensor,
    kernel: Tensor,
    kernel_size: list[int],
    stride: list[int],
    padding: list[int],
    dilation: list[int],
) -> Tensor:
    """Return ``[channels, 1, *kernel_size]`` where every channel has a kernel of its own.

    Each channel of each row is a group: its image slides along its gradient, and rows are summed.
    """
    rows, channels = int(image.shape[0]), int(image.shape[1])
    result = aten.convolution.default(
        image.reshape(1, rows * channels, *image.shape[2:]),
        kernel.reshape(rows * channels, 1, *kernel.shape[2:]),
        None,
        dilation,
        padding,
        stride,
        False,
        [0] * len(stride),
        rows * channels,
    )
    taps = _first_taps(result, kernel_size)
    return taps.reshape(rows, channels, 1, *kernel_size).sum(0)


def _first_taps(gradient: Tensor, kernel_size: list[int]) -> Tensor:
    """Cut off what the last rows of an image make that the stride does not divide."""
    for d, size in enumerate(kernel_size):
        if gradient.shape[2 + d] != size:
            gradient = gradient.narrow(2 + d, 0, size)
    return gradient


def weight_gradient_as_products(
    image: Tensor,
    kernel: Tensor,
    kernel_size: list[int],
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
) -> Tensor:
    """Return the weight gradient as one matrix product per row and group, summed over rows."""
    rows, out = int(image.shape[0]), int(kernel.shape[1]) // groups
    columns = patches(image, kernel_size, stride, padding, dilation)
    _, channels, taps, positions = columns.shape
    per_group = int(channels) // groups
    left = kernel.reshape(rows * groups, out, positions)
    right = columns.reshape(rows * groups, per_group * taps, positions)
    products = torch.bmm(left, right.transpose(1, 2))
    summed = products.reshape(rows, groups * out, per_group * taps).sum(0)
    return summed.reshape(groups * out, per_group, *kernel_size)


def patches(
    image: Tensor,
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> Tensor:
    """Return what each tap of a kernel sees, ``[N, C, taps, positions]``.

    One convolution of every channel by itself with the unit kernels: a product with 1 and sums with 0,
    so exact, and many times faster than a strided slice per tap.
    """
    rows, channels = int(image.shape[0]), int(image.shape[1])
    taps = math.prod(kernel_size)
    if taps == 1 and set(stride) == {1} and not any(padding):
        return image.reshape(rows, channels, 1, -1)
    unit = torch.eye(taps, dtype=image.dtype).reshape(taps, 1, *kernel_size)
    planes = image.reshape(rows * channels, 1, *image.shape[2:])
    seen = aten.convolution.default(
        planes, unit, None, stride, padding, dilation, False, [0] * len(kernel_size), 1
    )
    columns: Tensor = seen.reshape(rows, channels, taps, -1)
    return columns
