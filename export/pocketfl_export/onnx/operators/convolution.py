"""Convolutions of any rank, plain and transposed."""

from __future__ import annotations

import torch

from pocketfl_export.onnx.registry import Call, translates

aten = torch.ops.aten


@translates(aten.convolution.default)
def convolution(call: Call) -> str:
    """``Conv`` or ``ConvTranspose`` with the same padding on both sides."""
    rank = len(call.shape) - 2

    def spread(name: str) -> list[int]:
        values = [int(v) for v in call.argument(name)]
        return values * rank if len(values) == 1 else values

    attributes = {
        "strides": spread("stride"),
        "pads": spread("padding") * 2,
        "dilations": spread("dilation"),
        "group": int(call.argument("groups")),
    }
    operands = (call.input("input"), call.input("weight"), call.optional("bias"))
    if call.argument("transposed"):
        extra = spread("output_padding")
        return call.add("ConvTranspose", *operands, output_padding=extra, **attributes)
    return call.add("Conv", *operands, **attributes)
