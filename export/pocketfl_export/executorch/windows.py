"""What a kernel sees of a channels-last image as it moves over it, in slices that XNNPACK takes."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

aten = torch.ops.aten


@dataclass(frozen=True)
class Window:
    """How a kernel moves over an image; one entry per spatial dimension.

    ``turned`` lays the kernel on the image back to front, as the gradient of the image needs it.
    """

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    turned: bool = False

    @property
    def taps(self) -> list[tuple[int, ...]]:
        """Where in its window each entry of the kernel lies, entries in row-major order."""
        taps = list(itertools.product(*map(range, self.kernel)))
        return taps[::-1] if self.turned else taps


def output_size(image: Tensor, window: Window) -> tuple[int, ...]:
    """Return at how many places the window can lie, along each spatial axis."""
    return tuple(
        (int(n) + 2 * p - d * (k - 1) - 1) // s + 1
        for n, k, s, p, d in zip(
            image.shape[1:-1],
            window.kernel,
            window.stride,
            window.padding,
            window.dilation,
            strict=True,
        )
    )


def spans(window: Window, size: tuple[int, ...]) -> tuple[int, ...]:
    """Return how much of a padded image the places of a window cover, along each spatial axis."""
    return tuple(
        (n - 1) * s + (k - 1) * d + 1
        for n, s, k, d in zip(size, window.stride, window.kernel, window.dilation, strict=True)
    )


def tap_views(image: Tensor, window: Window, size: tuple[int, ...]) -> list[Tensor]:
    """Return for each tap the image as that tap sees it, ``[N, *output, C]``.

    A strided image is first split by the position's remainder modulo the stride, which leaves slices
    without gaps: the only ones that XNNPACK takes.
    """
    dims = len(window.kernel)
    needed = [-(-n // s) * s for n, s in zip(spans(window, size), window.stride, strict=True)]
    amounts = [
        (p, total - int(n) - p)
        for n, p, total in zip(image.shape[1:-1], window.padding, needed, strict=True)
    ]
    padded = pad_spatial(image, amounts)
    views = []
    if all(s == 1 for s in window.stride):
        for tap in window.taps:
            starts = [t * d for t, d in zip(tap, window.dilation, strict=True)]
            views.append(_cut(padded, 1, starts, size))
        return views
    rows, channels = int(image.shape[0]), int(image.shape[-1])
    split_shape = itertools.chain(
        *((total // s, s) for total, s in zip(needed, window.stride, strict=True))
    )
    split = padded.reshape(rows, *split_shape, channels)
    order = [0, *range(2, 2 * dims + 1, 2), *range(1, 2 * dims, 2), 2 * dims + 1]
    split = split.permute(order)
    phases: dict[tuple[int, ...], Tensor] = {}
    for tap in window.taps:
        offsets = [t * d for t, d in zip(tap, window.dilation, strict=True)]
        phase = tuple(o % s for o, s in zip(offsets, window.stride, strict=True))
        if phase not in phases:
            part = _cut(split, 1, phase, (1,) * dims)
            phases[phase] = part.reshape(
                rows, *(t // s for t, s in zip(needed, window.stride, strict=True)), channels
            )
        starts = [o // s for o, s in zip(offsets, window.stride, strict=True)]
        views.append(_cut(phases[phase], 1, starts, size))
    return views


def _cut(x: Tensor, first: int, starts: Sequence[int], sizes: Sequence[int]) -> Tensor:
    for d, (start, size) in enumerate(zip(starts, sizes, strict=True), first):
        if start or size != int(x.shape[d]):
            x = aten.slice.Tensor(x, d, start, start + size)
    return x


def pad_spatial(x: Tensor, amounts: Sequence[tuple[int, int]]) -> Tensor:
    """Pad the spatial axes of a channels-last tensor with zeros; negative amounts cut off."""
    starts = [max(0, -before) for before, _ in amounts]
    sizes = [
        int(n) - max(0, -before) - max(0, -after)
        for n, (before, after) in zip(x.shape[1:-1], amounts, strict=True)
    ]
    x = _cut(x, 1, starts, sizes)
    pads = [0, 0]
    for before, after in reversed(amounts):
        pads += [max(0, before), max(0, after)]
    if any(pads):
        x = aten.constant_pad_nd.default(x, pads, 0.0)
    return x
