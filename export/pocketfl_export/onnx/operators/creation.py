"""Tensors made from nothing but their shape."""

from __future__ import annotations

from typing import Any

import torch

from pocketfl_export.onnx.registry import Call, translates

aten = torch.ops.aten

_ARGUMENTS = {
    "full": "fill_value",
    "full_like": "fill_value",
    "new_full": "fill_value",
    "scalar_tensor": "s",
}


@translates(
    aten.full.default,
    aten.full_like.default,
    aten.new_full.default,
    aten.scalar_tensor.default,
    aten.zeros.default,
    aten.zeros_like.default,
    aten.new_zeros.default,
    aten.ones.default,
    aten.ones_like.default,
    aten.new_ones.default,
)
def fill(call: Call) -> str:
    """One number everywhere; written as its shape, not as its elements."""
    if call.overload in _ARGUMENTS:
        value: Any = call.argument(_ARGUMENTS[call.overload])
    else:
        value = 1 if "ones" in call.overload else 0
    return call.builder.filled(call.shape, value, call.dtype)
