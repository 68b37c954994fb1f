"""Convolutions with a kernel for each channel, as one matrix product per channel.

A line of an image times a band matrix, whose columns are the kernel's line shifted, is the
convolution along the last axis; the other axes are lines side by side. That multiplies by many zeros,
and is still several times faster than a slice, a product and a sum over the whole image for each tap:
XNNPACK's time goes into passes over memory.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Final

import torch
from torch import Tensor

from pocketfl_export.executorch.windows import Window, pad_spatial, spans, tap_views

aten = torch.ops.aten

LONGEST_LINE: Final = 64
"""Of longer lines the band is mostly zeros."""


def suits(weight: Tensor, window: Window, size: tuple[int, ...], groups: int) -> bool:
    """Return whether each channel has one kernel of its own and the image's lines are short enough."""
    depthwise = int(weight.shape[1]) == 1 and int(weight.shape[0]) == groups
    return depthwise and spans(window, size)[-1] <= LONGEST_LINE


def correlate(image: Tensor, weight: Tensor, window: Window, size: tuple[int, ...]) -> Tensor:
    """Slide each channel's kernel over its own channel of a channels-last image."""
    channels = int(weight.shape[0])
    width = int(image.shape[-2])
    bands = _bands(weight, window, width, size[-1])
    matrices = bands.permute(0, 1, 3, 2).reshape(channels, -1, size[-1])
    product = torch.bmm(_lines(image, window, size), matrices)
    return _channels_last(product, int(image.shape[0]), size)


def image_gradient(
    grad: Tensor, weight: Tensor, window: Window, image_size: tuple[int, ...]
) -> Tensor:
    """Return the gradient with respect to the image of :func:`correlate`; strides of 1 only.

    Along the last axis it is a product with the same bands, transposed; along the others the padded
    gradient is seen through the kernel turned round.
    """
    channels, width = int(weight.shape[0]), image_size[-1]
    bands = _bands(weight, window, width, int(grad.shape[-2]))
    reach = tuple(
        d * (k - 1) - p
        for k, p, d in zip(window.kernel, window.padding, window.dilation, strict=True)
    )
    backward = replace(window, padding=reach, turned=True)
    product = torch.bmm(_lines(grad, backward, image_size), bands.reshape(channels, -1, width))
    return _channels_last(product, int(grad.shape[0]), image_size)


def weight_gradient(image: Tensor, grad: Tensor, weight: Tensor, window: Window) -> Tensor:
    """Return the gradient with respect to the kernels of :func:`correlate`.

    Every element of a line meets every element of the gradient's; those that a kernel has brought
    together lie on diagonals, which a row one step longer turns into columns.
    """
    size = tuple(int(n) for n in grad.shape[1:-1])
    channels, width, step = int(weight.shape[0]), size[-1], window.stride[-1]
    outer = math.prod(window.kernel[:-1])
    order = [grad.dim() - 1, grad.dim() - 2, *range(grad.dim() - 2)]
    turned = grad.permute(order).reshape(channels, width, -1)
    lines = _lines(image, window, size)
    met = torch.bmm(turned, lines).reshape(channels, width, outer, -1).permute(0, 2, 1, 3)
    (*_, span), before = spans(window, size), window.padding[-1]
    length = int(image.shape[-2])
    met = pad_spatial(met.reshape(-1, length, 1), [(before, span - length - before)])
    flat = aten.constant_pad_nd.default(met.reshape(channels, outer, -1), [0, width * step], 0.0)
    reach = (window.kernel[-1] - 1) * window.dilation[-1] + 1
    columns = flat.reshape(channels, outer, width, -1)[..., :reach].permute(0, 1, 3, 2)
    ones = torch.ones(width, 1, dtype=grad.dtype)
    sums = (columns.reshape(-1, width) @ ones).reshape(channels * outer, reach)
    return _without_gaps(sums, window).reshape(weight.shape)


def _bands(weight: Tensor, window: Window, length: int, width: int) -> Tensor:
    """Return ``[C, outer taps, width, length]``: each kernel line at every place where it can lie.

    Lines of the image are not padded; what of a kernel lies beyond their ends is cut off here.
    """
    channels, step = int(weight.shape[0]), window.stride[-1]
    lines = _with_gaps(weight.reshape(channels, -1, window.kernel[-1]), window)
    outer, reach = int(lines.shape[1]), int(lines.shape[2])
    span = (width - 1) * step + reach
    # Lines of span + step written into rows of span begin a step later in each row.
    padded = aten.constant_pad_nd.default(lines, [0, span + step - reach], 0.0).unsqueeze(2)
    repeated = padded * torch.ones(1, 1, width, 1, dtype=weight.dtype)
    flat = repeated.reshape(channels, outer, -1)[..., : width * span]
    before = window.padding[-1]
    bands = pad_spatial(flat.reshape(-1, span, 1), [(-before, before + length - span)])
    return bands.reshape(channels, outer, width, length)


def _with_gaps(lines: Tensor, window: Window) -> Tensor:
    gap = window.dilation[-1] - 1
    if gap == 0 or window.kernel[-1] == 1:
        return lines
    reach = (window.kernel[-1] - 1) * (gap + 1) + 1
    spread = aten.constant_pad_nd.default(lines.unsqueeze(-1), [0, gap], 0.0)
    joined: Tensor = spread.reshape(*lines.shape[:-1], -1)[..., :reach]
    return joined


def _without_gaps(lines: Tensor, window: Window) -> Tensor:
    """Undo :func:`_with_gaps`."""
    gap = window.dilation[-1] - 1
    if gap == 0 or window.kernel[-1] == 1:
        return lines
    padded = aten.constant_pad_nd.default(lines, [0, gap], 0.0)
    firsts: Tensor = padded.reshape(*lines.shape[:-1], -1, gap + 1)[..., :1]
    return firsts


def _lines(image: Tensor, window: Window, size: tuple[int, ...]) -> Tensor:
    """Return ``[C, N * outer positions, outer taps * length]`` of a channels-last image."""
    dims = len(window.kernel)
    channels, length = int(image.shape[-1]), int(image.shape[-2])
    planes = image.permute(dims + 1, *range(dims + 1)).reshape(-1, *image.shape[1:-1])
    outer = Window(
        kernel=window.kernel[:-1],
        stride=window.stride[:-1],
        padding=window.padding[:-1],
        dilation=window.dilation[:-1],
        turned=window.turned,
    )
    views = tap_views(planes, outer, size[:-1])
    joined = views[0] if len(views) == 1 else torch.cat(views, -1)
    return joined.reshape(channels, -1, len(views) * length)


def _channels_last(product: Tensor, rows: int, size: tuple[int, ...]) -> Tensor:
    channels = int(product.shape[0])
    image = product.reshape(channels, rows, *size)
    return image.permute(*range(1, image.dim()), 0)
