"""Arithmetic and activations, element by element."""

from __future__ import annotations

import math

import torch

from pocketfl_export.onnx.registry import Call, Untranslatable, translates

aten = torch.ops.aten

_BINARY = {
    "add": "Add",
    "sub": "Sub",
    "mul": "Mul",
    "maximum": "Max",
    "minimum": "Min",
}


@translates(
    aten.add.Tensor,
    aten.add.Scalar,
    aten.sub.Tensor,
    aten.sub.Scalar,
    aten.mul.Tensor,
    aten.mul.Scalar,
    aten.maximum.default,
    aten.minimum.default,
)
def binary(call: Call) -> str:
    """Broadcast, compute in the result's type; ``alpha`` scales the second operand."""
    second = call.input("other", call.dtype)
    alpha = call.argument("alpha") if call.overload in ("add", "sub") else 1
    if alpha != 1:
        second = call.add("Mul", second, call.scalar(alpha))
    first = call.input("self", call.dtype)
    if call.dtype == torch.bool:
        return call.add("Or" if call.overload == "add" else "And", first, second)
    return call.add(_BINARY[call.overload], first, second)


@translates(aten.rsub.Scalar, aten.rsub.Tensor)
def reversed_subtract(call: Call) -> str:
    """``other - alpha * self``."""
    first = call.input("self", call.dtype)
    if call.argument("alpha") != 1:
        first = call.add("Mul", first, call.scalar(call.argument("alpha")))
    return call.add("Sub", call.input("other", call.dtype), first)


@translates(aten.div.Tensor, aten.div.Scalar)
def divide(call: Call) -> str:
    """True division; of integers it gives a float, as the traced result says."""
    return call.add("Div", call.input("self", call.dtype), call.input("other", call.dtype))


@translates(aten.div.Tensor_mode, aten.div.Scalar_mode)
def divide_rounding(call: Call) -> str:
    """Division rounded down or toward zero."""
    mode = call.argument("rounding_mode")
    quotient = call.add("Div", call.input("self", call.dtype), call.input("other", call.dtype))
    if mode is None:
        return quotient
    if not call.dtype.is_floating_point:
        raise Untranslatable(f"integer division with rounding_mode={mode!r}")
    if mode == "floor":
        return call.add("Floor", quotient)
    return call.add(
        "Where",
        call.add("Less", quotient, call.scalar(0)),
        call.add("Ceil", quotient),
        call.add("Floor", quotient),
    )


_UNARY = {
    "relu": "Relu",
    "exp": "Exp",
    "log": "Log",
    "neg": "Neg",
    "sigmoid": "Sigmoid",
    "tanh": "Tanh",
    "sign": "Sign",
    "erf": "Erf",
    "abs": "Abs",
    "reciprocal": "Reciprocal",
    "sin": "Sin",
    "cos": "Cos",
    "tan": "Tan",
    "asin": "Asin",
    "acos": "Acos",
    "atan": "Atan",
    "sinh": "Sinh",
    "cosh": "Cosh",
    "asinh": "Asinh",
    "acosh": "Acosh",
    "atanh": "Atanh",
    "floor": "Floor",
    "ceil": "Ceil",
    "round": "Round",
}


@translates(*(getattr(aten, name).default for name in _UNARY))
def unary(call: Call) -> str:
    """One operand, the same function on both sides."""
    return call.add(_UNARY[call.overload], call.input("self", call.dtype))


@translates(aten.trunc.default)
def truncate(call: Call) -> str:
    """Rounded toward zero."""
    x = call.input("self", call.dtype)
    return call.add("Mul", call.add("Sign", x), call.add("Floor", call.add("Abs", x)))


@translates(aten.fmod.Scalar, aten.fmod.Tensor)
def truncated_remainder(call: Call) -> str:
    """Remainder with the sign of the dividend."""
    return _remainder(call)[0]


@translates(aten.remainder.Scalar, aten.remainder.Tensor)
def floored_remainder(call: Call) -> str:
    """Remainder with the sign of the divisor."""
    rest, divisor = _remainder(call)
    opposite = call.add("Less", call.add("Mul", rest, divisor), call.scalar(0))
    return call.add("Where", opposite, call.add("Add", rest, divisor), rest)


def _remainder(call: Call) -> tuple[str, str]:
    divisor = call.input("other", call.dtype)
    return call.add("Mod", call.input("self", call.dtype), divisor, fmod=1), divisor


@translates(aten.atan2.default)
def angle(call: Call) -> str:
    """Angle of the point (other, self), by quadrant."""
    y, x = call.input("self", call.dtype), call.input("other", call.dtype)
    zero = call.scalar(0)
    below = call.add("Less", y, zero)
    # On the vertical axis the quotient would be 0 / 0 at the origin, where the angle is 0.
    upright = call.add("Equal", x, zero)
    quotient = call.add("Div", y, call.add("Where", upright, call.scalar(1), x))
    half = call.add("Mul", call.add("Sign", y), call.scalar(math.pi / 2))
    right = call.add("Where", upright, half, call.add("Atan", quotient))
    turn = call.add("Where", below, call.scalar(-math.pi), call.scalar(math.pi))
    left = call.add("Add", right, turn)
    return call.add("Where", call.add("Less", x, zero), left, right)


@translates(aten.rsqrt.default)
def reciprocal_root(call: Call) -> str:
    """``1 / sqrt(x)``."""
    return call.add("Reciprocal", call.add("Sqrt", call.input("self", call.dtype)))


@translates(aten.log2.default, aten.log10.default)
def logarithm(call: Call) -> str:
    """The natural logarithm, scaled."""
    base = 2.0 if call.overload == "log2" else 10.0
    natural = call.add("Log", call.input("self", call.dtype))
    return call.add("Mul", natural, call.scalar(1 / math.log(base)))


@translates(aten.log1p.default)
def log1p(call: Call) -> str:
    """``log(1 + x)`` as ``x log(u) / (u - 1)`` with ``u = 1 + x``, exact near 0 (Goldberg 1991)."""
    x = call.input("self", call.dtype)
    one = call.scalar(1)
    above = call.add("Add", x, one)
    is_one = call.add("Equal", above, one)
    distance = call.add("Where", is_one, one, call.add("Sub", above, one))
    ratio = call.add("Div", call.add("Log", above), distance)
    return call.add("Where", is_one, x, call.add("Mul", x, ratio))


@translates(aten.expm1.default)
def expm1(call: Call) -> str:
    """Near 0 ``tanh(x / 2) (exp(x) + 1)``, which equals ``exp(x) - 1`` and loses no digits."""
    x = call.input("self", call.dtype)
    exponential = call.add("Exp", x)
    half = call.add("Tanh", call.add("Mul", x, call.scalar(0.5)))
    near = call.add("Mul", half, call.add("Add", exponential, call.scalar(1)))
    far = call.add("Sub", exponential, call.scalar(1))
    is_near = call.add("Less", call.add("Abs", x), call.scalar(1))
    return call.add("Where", is_near, near, far)


@translates(aten.clamp.default, aten.clamp.Tensor)
def clamp(call: Call) -> str:
    """Limit to a range; a limit may be absent."""
    x = call.input("self", call.dtype)
    for bound, operator in (("min", "Max"), ("max", "Min")):
        if call.has(bound):
            x = call.add(operator, x, call.input(bound, call.dtype))
    return x


@translates(aten.clamp_min.default, aten.clamp_max.default)
def clamp_one_side(call: Call) -> str:
    """Limit from one side."""
    bound, operator = ("min", "Max") if call.overload == "clamp_min" else ("max", "Min")
    return call.add(operator, call.input("self", call.dtype), call.input(bound, call.dtype))


@translates(aten.hardtanh.default)
def hardtanh(call: Call) -> str:
    """Limit to ``[min_val, max_val]``."""
    lowest, highest = call.scalar(call.argument("min_val")), call.scalar(call.argument("max_val"))
    return call.add("Clip", call.input("self"), lowest, highest)


@translates(aten.pow.Tensor_Scalar)
def power(call: Call) -> str:
    """Small whole powers are products, which are exact and fast."""
    x, exponent = call.input("self", call.dtype), call.argument("exponent")
    if exponent == 2:
        return call.add("Mul", x, x)
    if exponent == 3:
        return call.add("Mul", call.add("Mul", x, x), x)
    if exponent == 0.5:
        return call.add("Sqrt", x)
    return call.add("Pow", x, call.scalar(exponent))


@translates(aten.pow.Tensor_Tensor, aten.pow.Scalar)
def power_of_tensors(call: Call) -> str:
    """General powers."""
    return call.add("Pow", call.input("self", call.dtype), call.input("exponent", call.dtype))


@translates(aten.gelu.default)
def gelu(call: Call) -> str:
    """Hendrycks and Gimpel (arXiv 1606.08415), exact or by its tanh approximation."""
    x = call.input("self")
    if call.argument("approximate") == "tanh":
        cube = call.add("Mul", call.add("Mul", x, x), x)
        inner = call.add("Add", x, call.add("Mul", cube, call.scalar(0.044715)))
        bent = call.add("Tanh", call.add("Mul", inner, call.scalar(math.sqrt(2 / math.pi))))
    else:
        bent = call.add("Erf", call.add("Mul", x, call.scalar(math.sqrt(0.5))))
    half = call.add("Mul", x, call.scalar(0.5))
    return call.add("Mul", half, call.add("Add", bent, call.scalar(1)))


@translates(aten.leaky_relu.default)
def leaky_relu(call: Call) -> str:
    """``x`` where positive, else ``slope * x``."""
    return call.add("LeakyRelu", call.input("self"), alpha=float(call.argument("negative_slope")))


@translates(aten.elu.default)
def elu(call: Call) -> str:
    """``scale * x`` where positive, else ``scale * alpha * (exp(input_scale * x) - 1)``."""
    if call.argument("input_scale") != 1:
        raise Untranslatable("input_scale other than 1")
    result = call.add("Elu", call.input("self"), alpha=float(call.argument("alpha")))
    scale = call.argument("scale")
    return result if scale == 1 else call.add("Mul", result, call.scalar(scale))


@translates(aten._to_copy.default, torch.ops.prims.convert_element_type.default)
def convert(call: Call) -> str:
    """Another type, or the same again."""
    name = "a" if call.overload == "convert_element_type" else "self"
    return call.input(name, call.dtype)


@translates(aten._log_softmax.default, aten._softmax.default)
def softmax(call: Call) -> str:
    """Along one axis."""
    operator = "Softmax" if call.overload == "_softmax" else "LogSoftmax"
    axis = call.axis("dim", len(call.shape))
    return call.add(operator, call.input("self", call.dtype), axis=axis)
