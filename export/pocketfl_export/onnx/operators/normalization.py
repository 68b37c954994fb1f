"""Normalisation forward; mean and reciprocal deviation are results too, for the backward pass."""

from __future__ import annotations

import torch

from pocketfl_export.onnx.registry import Call, translates

aten = torch.ops.aten


def _normalize(call: Call, x: str, axes: list[int]) -> tuple[str, str, str]:
    mean = call.add("ReduceMean", x, axes=axes, keepdims=1)
    distance = call.add("Sub", x, mean)
    variance = call.add("ReduceMean", call.add("Mul", distance, distance), axes=axes, keepdims=1)
    shifted = call.add("Add", variance, call.scalar(call.argument("eps")))
    scale = call.add("Reciprocal", call.add("Sqrt", shifted))
    return call.add("Mul", distance, scale), mean, scale


@translates(aten.native_layer_norm.default)
def layer_norm(call: Call) -> tuple[str, str, str]:
    """Over the last axes (Ba, Kiros and Hinton, arXiv 1607.06450)."""
    rank = len(call.shape)
    axes = list(range(rank - len(call.argument("normalized_shape")), rank))
    y, mean, scale = _normalize(call, call.input("input"), axes)
    if call.has("weight"):
        y = call.add("Mul", y, call.input("weight"))
    if call.has("bias"):
        y = call.add("Add", y, call.input("bias"))
    return y, mean, scale


@translates(aten.native_group_norm.default)
def group_norm(call: Call) -> tuple[str, str, str]:
    """Over groups of channels (Wu and He, arXiv 1803.08494)."""
    rows, channels, groups = (int(call.argument(name)) for name in ("N", "C", "group"))
    shape = call.shape_of("input")
    grouped = call.reshape(call.input("input"), [rows, groups, -1])
    y, mean, scale = _normalize(call, grouped, [2])
    y = call.reshape(y, shape)
    per_channel = [1, channels] + [1] * (len(shape) - 2)
    if call.has("weight"):
        y = call.add("Mul", y, call.reshape(call.input("weight"), per_channel))
    if call.has("bias"):
        y = call.add("Add", y, call.reshape(call.input("bias"), per_channel))
    return y, call.reshape(mean, [rows, groups]), call.reshape(scale, [rows, groups])
