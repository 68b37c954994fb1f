"""Pooling over two axes; one-dimensional pooling arrives as this with an axis of length 1."""

from __future__ import annotations

import numpy as np
import torch

from pocketfl_export.onnx.registry import Call, Untranslatable, translates

aten = torch.ops.aten


def _pair(call: Call, name: str, default: list[int]) -> list[int]:
    values = [int(v) for v in call.argument(name)] or default
    return values * 2 if len(values) == 1 else values


def _batched(call: Call, x: str) -> tuple[str, bool]:
    """ONNX pools tensors with batch and channel axes only."""
    shape = call.shape_of("self")
    return (call.reshape(x, [1, *shape]), True) if len(shape) == 3 else (x, False)


@translates(aten.avg_pool2d.default)
def average(call: Call) -> str:
    """Mean of each window."""
    kernel = _pair(call, "kernel_size", [])
    padding = _pair(call, "padding", [0, 0])
    if call.argument("divisor_override") is not None:
        raise Untranslatable("divisor_override; scale the result instead")
    if call.argument("ceil_mode") and any(padding):
        raise Untranslatable("ceil_mode together with padding; pad with F.pad before pooling")
    x, added = _batched(call, call.input("self"))
    pooled = call.add(
        "AveragePool",
        x,
        kernel_shape=kernel,
        strides=_pair(call, "stride", kernel),
        pads=padding * 2,
        ceil_mode=int(call.argument("ceil_mode")),
        count_include_pad=int(call.argument("count_include_pad")),
    )
    return call.reshape(pooled, call.shape) if added else pooled


@translates(aten.max_pool2d_with_indices.default)
def maximum(call: Call) -> tuple[str | None, str | None]:
    """Largest of each window, and its position within its plane where something asks for it."""
    kernel = _pair(call, "kernel_size", [])
    x, added = _batched(call, call.input("self"))
    attributes = {
        "kernel_shape": kernel,
        "strides": _pair(call, "stride", kernel),
        "pads": _pair(call, "padding", [0, 0]) * 2,
        "dilations": _pair(call, "dilation", [1, 1]),
        "ceil_mode": int(call.argument("ceil_mode")),
    }
    if 1 not in {user.args[1] for user in call.node.users}:
        pooled = call.add("MaxPool", x, **attributes)
        return (call.reshape(pooled, call.shape) if added else pooled), None
    pooled, positions = call.builder.add_several("MaxPool", x, outputs=2, **attributes)
    # ONNX counts positions over the whole tensor, torch over one plane.
    *lead, height, width = call.shape_of("self")
    planes = np.arange(int(np.prod(lead)), dtype=np.int64) * (height * width)
    offsets = call.builder.constant(planes.reshape(*([1] * added), *lead, 1, 1))
    positions = call.add("Sub", positions, offsets)
    if added:
        return call.reshape(pooled, call.shape), call.reshape(positions, call.shape)
    return pooled, positions
