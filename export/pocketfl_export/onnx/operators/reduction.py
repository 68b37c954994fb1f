"""Sums, means and extremes over axes."""

from __future__ import annotations

import torch
from torch import fx

from pocketfl_export.onnx.registry import Call, Untranslatable, translates

aten = torch.ops.aten


def _keepdim(call: Call) -> int:
    try:
        return int(bool(call.argument("keepdim")))
    except KeyError:
        return 0


def _axes(call: Call, name: str = "dim") -> list[int]:
    rank = len(call.shape_of("self"))
    try:
        return call.axes(name, rank)
    except KeyError:
        return list(range(rank))


@translates(aten.sum.dim_IntList, aten.sum.default)
def total(call: Call) -> str:
    """Sum over axes, or over all."""
    x, axes = call.input("self", call.dtype), _axes(call)
    if not axes:
        return x
    if len(axes) == len(call.shape_of("self")) and not _keepdim(call):
        return call.add("ReduceSum", x, keepdims=0)
    return call.add("ReduceSum", x, call.builder.integers(axes), keepdims=_keepdim(call))


@translates(aten.sqrt.default)
def square_root(call: Call) -> str:
    """The root of a sum of squares is a norm, in one pass over the data."""
    squared = _sum_of_squares_of(call.argument("self"))
    if squared is not None:
        return call.add("ReduceL2", call.value(squared), keepdims=0)
    return call.add("Sqrt", call.input("self", call.dtype))


def _sum_of_squares_of(node: object) -> fx.Node | None:
    """Return x if the node is the sum of all of ``x * x``."""
    if not isinstance(node, fx.Node) or node.target is not aten.sum.dim_IntList:
        return None
    product = node.args[0]
    if len(node.args) != 2 or node.args[1] or not isinstance(product, fx.Node):
        return None
    if product.target is not aten.mul.Tensor or product.args[0] is not product.args[1]:
        return None
    x = product.args[0]
    return x if isinstance(x, fx.Node) and x.meta["val"].is_floating_point() else None


@translates(aten.mean.dim, aten.mean.default)
def mean(call: Call) -> str:
    """Mean over axes, or over all."""
    x, axes = call.input("self", call.dtype), _axes(call)
    return call.add("ReduceMean", x, axes=axes, keepdims=_keepdim(call)) if axes else x


@translates(aten.amax.default, aten.amin.default, aten.max.default, aten.min.default)
def extreme(call: Call) -> str:
    """Largest or smallest over axes, or over all."""
    operator = "ReduceMax" if "max" in call.overload else "ReduceMin"
    axes = _axes(call)
    return call.add(operator, call.input("self"), axes=axes, keepdims=_keepdim(call))


@translates(aten.max.dim, aten.min.dim)
def extreme_with_position(call: Call) -> tuple[str, str]:
    """Largest or smallest along one axis, and the first position of it."""
    axis, keepdims = _axes(call)[0], _keepdim(call)
    values, positions = (
        ("ReduceMax", "ArgMax") if call.overload == "max" else ("ReduceMin", "ArgMin")
    )
    x = call.input("self")
    return (
        call.add(values, x, axes=[axis], keepdims=keepdims),
        call.add(positions, x, axis=axis, keepdims=keepdims),
    )


@translates(aten.argmax.default, aten.argmin.default)
def position(call: Call) -> str:
    """First position of the largest or smallest along one axis."""
    operator = "ArgMax" if call.overload == "argmax" else "ArgMin"
    x = call.input("self")
    if not call.has("dim"):
        flat = call.reshape(x, [-1])
        return call.add(operator, flat, axis=0, keepdims=0)
    axis = call.axis("dim", len(call.shape_of("self")))
    return call.add(operator, x, axis=axis, keepdims=_keepdim(call))


@translates(aten.any.dim, aten.any.dims, aten.any.default)
def any_true(call: Call) -> str:
    """True where one is."""
    return _logical(call, "ReduceMax")


@translates(aten.all.dim, aten.all.dims, aten.all.default)
def all_true(call: Call) -> str:
    """True where all are."""
    return _logical(call, "ReduceMin")


def _logical(call: Call, operator: str) -> str:
    numbers = call.cast(call.input("self", torch.bool), torch.int32)
    reduced = call.add(operator, numbers, axes=_axes(call), keepdims=_keepdim(call))
    return call.cast(reduced, torch.bool)


@translates(aten.prod.default, aten.prod.dim_int)
def product(call: Call) -> str:
    """Product over one axis, or over all."""
    x = call.input("self", call.dtype)
    return call.add("ReduceProd", x, axes=_axes(call), keepdims=_keepdim(call))


@translates(aten.cumsum.default)
def running_sum(call: Call) -> str:
    """Sums of all elements up to each, along one axis."""
    axis = call.axis("dim", len(call.shape))
    x = call.input("self", call.dtype)
    return call.add("CumSum", x, call.builder.constant(axis, torch.int64))


@translates(aten.var.correction)
def variance(call: Call) -> str:
    """Mean squared distance from the mean, divided by ``n - correction``."""
    axes, shape = _axes(call), call.shape_of("self")
    count = 1
    for axis in axes:
        count *= shape[axis]
    correction = call.argument("correction")
    divisor = count - (1 if correction is None else correction)
    if divisor <= 0:
        raise Untranslatable("the variance of fewer elements than its correction")
    x = call.input("self")
    distance = call.add("Sub", x, call.add("ReduceMean", x, axes=axes, keepdims=1))
    square = call.add("Mul", distance, distance)
    mean_square = call.add("ReduceMean", square, axes=axes, keepdims=_keepdim(call))
    return call.add("Mul", mean_square, call.scalar(count / divisor))
