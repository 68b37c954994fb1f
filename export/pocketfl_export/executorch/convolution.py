"""Convolutions and their gradients as matrix products over channels-last patches.

XNNPACK takes the weights of a convolution for constants, which those of a training step are not, and
the portable kernels are slow and know two dimensions only. A matrix product has neither fault. Inside,
the channels come last: a patch is then a run of whole rows of memory, and the small weight matrix is
the operand that the product repacks. The arithmetic of shapes follows Dumoulin and Visin, "A guide to
convolution arithmetic for deep learning" (arXiv 1603.07285).
"""
# ruff: noqa: PLR0917 - the arguments of an ATen operator are positional

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from pocketfl_export.executorch import depthwise
from pocketfl_export.executorch.windows import Window, output_size, pad_spatial, tap_views

aten = torch.ops.aten

Gradients = tuple[Tensor | None, Tensor | None, Tensor | None]


def convolution(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
) -> Tensor:
    """Compute ``aten.convolution`` for any number of dimensions and groups."""
    window = _window(weight, stride, padding, dilation)
    if transposed:
        extra = _spread(output_padding, len(window.kernel))
        image_size = tuple(
            (int(n) - 1) * s - 2 * p + d * (k - 1) + e + 1
            for n, k, s, p, d, e in zip(
                x.shape[2:],
                window.kernel,
                window.stride,
                window.padding,
                window.dilation,
                extra,
                strict=True,
            )
        )
        result = _image_gradient(_channels_last(x), weight, window, image_size, groups)
        if bias is not None:
            result = result + bias
    else:
        result = _correlate(_channels_last(x), weight, bias, window, groups)
    return _channels_first(result)


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
    """Compute the gradients of ``aten.convolution``.

    Returns
    -------
    tuple of Tensor or None
        Gradients of input, weight and bias where ``output_mask`` asks for them.
    """
    window = _window(weight, stride, padding, dilation)
    grad = _channels_last(grad_output)
    grad_input = grad_weight = grad_bias = None
    if output_mask[0]:
        if transposed:
            result = _correlate(grad, weight, None, window, groups)
        else:
            image_size = tuple(int(n) for n in x.shape[2:])
            result = _image_gradient(grad, weight, window, image_size, groups)
        grad_input = _channels_first(result)
    if output_mask[1]:
        # A transposed convolution is the gradient of a plain one: input and output change places.
        image, kernel = (grad, _channels_last(x)) if transposed else (_channels_last(x), grad)
        grad_weight = _weight_gradient(image, kernel, weight, window, groups)
    if output_mask[2]:
        channels = int(grad_output.shape[1])
        grad_bias = _sum_of_rows(grad.reshape(-1, channels))
    return grad_input, grad_weight, grad_bias


def _window(
    weight: Tensor, stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int]
) -> Window:
    dims = weight.dim() - 2
    return Window(
        kernel=tuple(int(n) for n in weight.shape[2:]),
        stride=_spread(stride, dims),
        padding=_spread(padding, dims),
        dilation=_spread(dilation, dims),
    )


def _spread(values: Sequence[int], dims: int) -> tuple[int, ...]:
    return tuple(values) * dims if len(values) == 1 else tuple(values)


def _channels_last(x: Tensor) -> Tensor:
    return x.permute(0, *range(2, x.dim()), 1)


def _channels_first(x: Tensor) -> Tensor:
    return x.permute(0, x.dim() - 1, *range(1, x.dim() - 1))


def _sum_of_rows(matrix: Tensor) -> Tensor:
    """Sum over the first axis as a product with ones: the portable reduction walks columns."""
    ones = torch.ones(matrix.shape[0], 1, dtype=matrix.dtype)
    return (matrix.t() @ ones).reshape(-1)


def _correlate(
    image: Tensor, weight: Tensor, bias: Tensor | None, window: Window, groups: int
) -> Tensor:
    """Slide the kernel over a channels-last image: what deep learning calls a convolution."""
    size = output_size(image, window)
    out = int(weight.shape[0])
    if groups == 1:
        columns = _patches(image, window, size)
        matrix = _taps_first(weight).permute(0, 2, 1).reshape(-1, out)
        product = columns @ matrix if bias is None else torch.addmm(bias, columns, matrix)
        return product.reshape(image.shape[0], *size, out)
    if not window.turned and depthwise.suits(weight, window, size, groups):
        result = depthwise.correlate(image, weight, window, size)
    else:
        result = _grouped(image, weight, window, size, groups)
    return result if bias is None else result + bias


def _grouped(
    image: Tensor, weight: Tensor, window: Window, size: tuple[int, ...], groups: int
) -> Tensor:
    rows, out = int(image.shape[0]), int(weight.shape[0])
    if int(weight.shape[1]) == 1 and out == groups:
        # Depthwise: one multiplication per tap and element, nothing to sum over channels.
        kernels = _rows(_taps_first(weight).reshape(-1, out))
        total: Tensor | None = None
        for kernel, view in zip(kernels, tap_views(image, window, size), strict=True):
            total = view * kernel if total is None else total + view * kernel
        assert total is not None  # noqa: S101 - a kernel has at least one tap
        return total
    columns = _grouped_patches(image, window, size, groups)
    per_group = out // groups
    # [groups, per_group, C, taps] to [groups, taps * C, per_group]
    matrix = weight.reshape(groups, per_group, int(weight.shape[1]), -1).permute(0, 3, 2, 1)
    product = torch.bmm(columns, matrix.reshape(groups, -1, per_group))
    return product.permute(1, 0, 2).reshape(rows, *size, out)


def _weight_gradient(
    image: Tensor, grad: Tensor, weight: Tensor, window: Window, groups: int
) -> Tensor:
    size = tuple(int(n) for n in grad.shape[1:-1])
    out, channels = int(weight.shape[0]), int(weight.shape[1])
    grads = grad.reshape(-1, out)
    if groups == 1:
        columns = _patches(image, window, size)
        product = (grads.t() @ columns).reshape(out, -1, channels)
        return product.permute(0, 2, 1).reshape(weight.shape)
    if depthwise.suits(weight, window, size, groups):
        return depthwise.weight_gradient(image, grad, weight, window)
    if channels == 1 and out == groups:
        seen = _patches(image, window, size).reshape(-1, math.prod(window.kernel), out)
        products = (seen * grads.unsqueeze(1)).reshape(grads.shape[0], -1)
        return _sum_of_rows(products).reshape(-1, out).t().reshape(weight.shape)
    columns = _grouped_patches(image, window, size, groups)
    per_group = out // groups
    left = grads.reshape(-1, groups, per_group).permute(1, 2, 0)
    product = torch.bmm(left, columns).reshape(groups, per_group, -1, channels)
    return product.permute(0, 1, 3, 2).reshape(weight.shape)


def _image_gradient(
    grad: Tensor, weight: Tensor, window: Window, image_size: tuple[int, ...], groups: int
) -> Tensor:
    """Return the channels-last gradient with respect to the image of :func:`_correlate`."""
    channels = int(weight.shape[1])
    if all(s == 1 for s in window.stride):
        size = tuple(int(n) for n in grad.shape[1:-1])
        if depthwise.suits(weight, window, size, groups):
            return depthwise.image_gradient(grad, weight, window, image_size)
        # The gradient is itself a convolution: of the padded gradient, with the kernel turned round.
        reach = tuple(
            d * (k - 1) - p
            for k, p, d in zip(window.kernel, window.padding, window.dilation, strict=True)
        )
        backward = replace(window, padding=reach, turned=True)
        return _correlate(grad, _swap_channels(weight, groups), None, backward, groups)
    # Each tap's share goes back to the positions that the tap saw. Images are kept apart by the
    # position's remainder modulo the stride, so that shares are shifted and never spread out.
    shares = _tap_shares(grad, weight, window, groups)
    blocks = tuple(
        -(-(n + 2 * p) // s)
        for n, s, p in zip(image_size, window.stride, window.padding, strict=True)
    )
    phases: dict[tuple[int, ...], Tensor] = {}
    for tap, share in zip(window.taps, shares, strict=True):
        offsets = [t * d for t, d in zip(tap, window.dilation, strict=True)]
        phase = tuple(o % s for o, s in zip(offsets, window.stride, strict=True))
        amounts = [
            (o // s, b - int(n) - o // s)
            for o, s, b, n in zip(offsets, window.stride, blocks, grad.shape[1:-1], strict=True)
        ]
        shifted = pad_spatial(share, amounts)
        phases[phase] = shifted if phase not in phases else phases[phase] + shifted
    zeros = torch.zeros(grad.shape[0], *blocks, channels * groups, dtype=grad.dtype)
    every = [phases.get(p, zeros) for p in itertools.product(*map(range, window.stride))]
    dims = len(blocks)
    interleaved = torch.stack(every, 1).reshape(
        int(grad.shape[0]), *window.stride, *blocks, channels * groups
    )
    order = [0, *itertools.chain(*((1 + dims + d, 1 + d) for d in range(dims))), 1 + 2 * dims]
    padded = interleaved.permute(order).reshape(
        int(grad.shape[0]),
        *(b * s for b, s in zip(blocks, window.stride, strict=True)),
        channels * groups,
    )
    crops = [
        (-p, -(b * s - n - p))
        for p, b, s, n in zip(window.padding, blocks, window.stride, image_size, strict=True)
    ]
    return pad_spatial(padded, crops)


def _tap_shares(grad: Tensor, weight: Tensor, window: Window, groups: int) -> list[Tensor]:
    """Return for each tap what it hands back to the image, ``[N, *output, C]``."""
    out, channels = int(weight.shape[0]), int(weight.shape[1])
    taps = math.prod(window.kernel)
    if groups == 1:
        matrix = weight.reshape(out, channels, taps).permute(0, 2, 1).reshape(out, -1)
        product = grad.reshape(-1, out) @ matrix
    elif channels == 1 and out == groups:
        return [grad * kernel for kernel in _rows(_taps_first(weight).reshape(taps, out))]
    else:
        per_group = out // groups
        left = grad.reshape(-1, groups, per_group).permute(1, 0, 2)
        matrix = weight.reshape(groups, per_group, channels, taps).permute(0, 1, 3, 2)
        grouped = torch.bmm(left, matrix.reshape(groups, per_group, taps * channels))
        # [groups, N * L, taps, C] to [N * L, taps * groups * C]
        product = grouped.reshape(groups, -1, taps, channels).permute(1, 2, 0, 3)
        product = product.reshape(-1, taps * groups * channels)
    width = channels * groups
    return [
        product[:, tap * width : (tap + 1) * width].reshape(*grad.shape[:-1], width)
        for tap in range(taps)
    ]


def _taps_first(weight: Tensor) -> Tensor:
    """Return a kernel as ``[taps, O, C]``."""
    out, channels = weight.shape[:2]
    return weight.reshape(out, channels, -1).permute(2, 0, 1)


def _rows(matrix: Tensor) -> list[Tensor]:
    """Return the rows as ``[1, n]``, which broadcast like vectors."""
    return [matrix[row : row + 1] for row in range(matrix.shape[0])]


def _swap_channels(weight: Tensor, groups: int) -> Tensor:
    out, channels = int(weight.shape[0]), int(weight.shape[1])
    split = weight.reshape(groups, out // groups, channels, *weight.shape[2:])
    return split.transpose(1, 2).reshape(groups * channels, out // groups, *weight.shape[2:])


def _patches(image: Tensor, window: Window, size: tuple[int, ...]) -> Tensor:
    """Return what each output position sees, ``[N * positions, taps * C]``.

    Axis by axis, the last one first: a kernel of 5 x 5 takes two times five views instead of 25.
    """
    columns = image
    for d in reversed(range(len(window.kernel))):
        one = Window(
            kernel=(window.kernel[d],),
            stride=(window.stride[d],),
            padding=(window.padding[d],),
            dilation=(window.dilation[d],),
            turned=window.turned,
        )
        columns = _axis_patches(columns, 1 + d, one, size[d])
    return columns.reshape(-1, math.prod(window.kernel) * int(image.shape[-1]))


def _axis_patches(image: Tensor, axis: int, window: Window, size: int) -> Tensor:
    """Replace one axis by the positions of a window on it; the last axis gets what the window sees."""
    (kernel,) = window.kernel
    shape = [int(n) for n in image.shape]
    before, after = math.prod(shape[1:axis]), math.prod(shape[axis + 1 : -1])
    channels = shape[-1]
    # As an image with one long axis before this one and one after it.
    flat = image.reshape(shape[0] * before, shape[axis], after, channels)
    whole = Window(
        kernel=(kernel, 1),
        stride=(window.stride[0], 1),
        padding=(window.padding[0], 0),
        dilation=(window.dilation[0], 1),
        turned=window.turned,
    )
    views = tap_views(flat, whole, (size, after))
    joined = views[0] if kernel == 1 else torch.cat(views, -1)
    return joined.reshape(*shape[:axis], size, *shape[axis + 1 : -1], kernel * channels)


def _grouped_patches(image: Tensor, window: Window, size: tuple[int, ...], groups: int) -> Tensor:
    """Return ``[groups, N * positions, taps * C]`` with the channels of one group each."""
    columns = _patches(image, window, size)
    taps, per_group = math.prod(window.kernel), int(image.shape[-1]) // groups
    split = columns.reshape(-1, taps, groups, per_group).permute(2, 0, 1, 3)
    return split.reshape(groups, -1, taps * per_group)
