"""Comparisons, logic and choice."""

from __future__ import annotations

import torch
from torch import fx

from pocketfl_export.onnx.registry import Call, translates

aten = torch.ops.aten

_COMPARISONS = {
    "eq": "Equal",
    "ne": "Equal",
    "gt": "Greater",
    "lt": "Less",
    "ge": "GreaterOrEqual",
    "le": "LessOrEqual",
}


@translates(
    *(getattr(aten, name).Tensor for name in _COMPARISONS),
    *(getattr(aten, name).Scalar for name in _COMPARISONS),
)
def compare(call: Call) -> str:
    """Compare in the type that torch promotes the two to."""
    other = call.argument("other")
    if isinstance(other, fx.Node):
        dtype = torch.result_type(call.tensor("self"), call.tensor("other"))
    else:
        dtype = torch.result_type(call.tensor("self"), other)
    result = call.add(
        _COMPARISONS[call.overload], call.input("self", dtype), call.input("other", dtype)
    )
    return call.add("Not", result) if call.overload == "ne" else result


_LOGIC = {"and": "And", "or": "Or", "xor": "Xor"}


@translates(
    *(getattr(aten, f"logical_{name}").default for name in _LOGIC),
    *(getattr(aten, f"bitwise_{name}").Tensor for name in _LOGIC),
)
def combine(call: Call) -> str:
    """Logic on booleans."""
    operator = _LOGIC[call.overload.split("_")[1]]
    return call.add(operator, call.input("self", torch.bool), call.input("other", torch.bool))


@translates(aten.logical_not.default, aten.bitwise_not.default)
def invert(call: Call) -> str:
    """The other boolean."""
    return call.add("Not", call.input("self", torch.bool))


@translates(aten.where.self)
def where(call: Call) -> str:
    """Choose element by element."""
    condition = call.input("condition", torch.bool)
    return call.add(
        "Where", condition, call.input("self", call.dtype), call.input("other", call.dtype)
    )


@translates(aten.isnan.default)
def is_nan(call: Call) -> str:
    """True where not a number."""
    return call.add("IsNaN", call.input("self"))


@translates(aten.isinf.default)
def is_infinite(call: Call) -> str:
    """True where infinite."""
    return call.add("IsInf", call.input("self"))
