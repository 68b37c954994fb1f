"""Operators that move elements and compute nothing."""

from __future__ import annotations

import numpy as np
import torch

from pocketfl_export.onnx.registry import Call, Value, translates

aten = torch.ops.aten


@translates(
    aten.view.default,
    aten._unsafe_view.default,
    aten.reshape.default,
    aten.unsqueeze.default,
    aten.squeeze.default,
    aten.squeeze.dim,
    aten.squeeze.dims,
    aten.flatten.using_ints,
)
def reshape(call: Call) -> str:
    """The same elements in the same order; ONNX Runtime copies nothing for it."""
    if call.shape_of("self") == call.shape:
        return call.input("self")
    return call.reshape(call.input("self"), call.shape)


@translates(
    aten.alias.default,
    aten.clone.default,
    aten.detach.default,
    aten.contiguous.default,
    aten.lift_fresh_copy.default,
)
def same(call: Call) -> str:
    """Nothing changes."""
    return call.input("self")


@translates(aten.permute.default)
def permute(call: Call) -> str:
    """Reorder axes; when only axes of length 1 move, no element does."""
    rank = len(call.shape)
    order = [int(d) % rank for d in call.argument("dims")]
    return _transpose(call, order)


@translates(aten.transpose.int)
def transpose(call: Call) -> str:
    """Swap two axes."""
    rank = len(call.shape)
    order = list(range(rank))
    first, second = call.axis("dim0", rank), call.axis("dim1", rank)
    order[first], order[second] = order[second], order[first]
    return _transpose(call, order)


def _transpose(call: Call, order: list[int]) -> str:
    x, before = call.input("self"), call.shape_of("self")
    if order == sorted(order):
        return x
    long = [axis for axis in order if before[axis] != 1]
    if long == sorted(long):
        return call.reshape(x, call.shape)
    return call.add("Transpose", x, perm=order)


@translates(aten.expand.default)
def expand(call: Call) -> str:
    """Repeat along axes of length 1 and new axes in front."""
    if call.shape_of("self") == call.shape:
        return call.input("self")
    return call.add("Expand", call.input("self"), call.builder.integers(call.shape))


@translates(aten.repeat.default)
def repeat(call: Call) -> str:
    """Lay copies side by side along every axis."""
    repeats = [int(n) for n in call.argument("repeats")]
    x, shape = call.input("self"), call.shape_of("self")
    if len(shape) < len(repeats):
        x = call.reshape(x, [1] * (len(repeats) - len(shape)) + shape)
    return call.add("Tile", x, call.builder.integers(repeats))


@translates(aten.cat.default)
def concatenate(call: Call) -> str:
    """Join along one axis; legacy empty vectors drop out."""
    parts = [part for part in call.argument("tensors") if tuple(part.meta["val"].shape) != (0,)]
    axis = call.axis("dim", len(call.shape))
    values = [call.value(part, call.dtype) for part in parts]
    return values[0] if len(values) == 1 else call.add("Concat", *values, axis=axis)


@translates(aten.stack.default)
def stack(call: Call) -> str:
    """Join along a new axis."""
    rank = len(call.shape)
    axis = call.axis("dim", rank)
    shape = [*call.shape[:axis], 1, *call.shape[axis + 1 :]]
    parts = [call.reshape(call.value(part, call.dtype), shape) for part in call.argument("tensors")]
    return call.add("Concat", *parts, axis=axis)


@translates(aten.slice.Tensor)
def slice_along(call: Call) -> str:
    """Every ``step``-th element of a range along one axis."""
    before = call.shape_of("self")
    axis = call.axis("dim", len(before))
    length, step = before[axis], int(call.argument("step"))
    start = _position(call.argument("start"), length, 0)
    stop = max(_position(call.argument("end"), length, length), start)
    if (start, stop, step) == (0, length, 1):
        return call.input("self")
    integers = call.builder.integers
    return call.add(
        "Slice",
        call.input("self"),
        integers([start]),
        integers([stop]),
        integers([axis]),
        integers([step]),
    )


def _position(value: int | None, length: int, default: int) -> int:
    if value is None:
        return default
    return min(max(value + length if value < 0 else value, 0), length)


@translates(aten.select.int)
def select(call: Call) -> str:
    """One position along one axis, which goes away."""
    before = call.shape_of("self")
    axis = call.axis("dim", len(before))
    index = int(call.argument("index")) % before[axis]
    position = call.builder.constant(np.int64(index))
    return call.add("Gather", call.input("self"), position, axis=axis)


@translates(aten.split_with_sizes.default)
def split_with_sizes(call: Call) -> Value:
    """Cut along one axis into pieces of given lengths."""
    sizes = [int(n) for n in call.argument("split_sizes")]
    return _split(call, sizes)


@translates(aten.split.Tensor)
def split(call: Call) -> Value:
    """Cut along one axis into pieces of one length; the last may be shorter."""
    before = call.shape_of("self")
    length, size = before[call.axis("dim", len(before))], int(call.argument("split_size"))
    sizes = [min(size, length - start) for start in range(0, length, size)]
    return _split(call, sizes)


def _split(call: Call, sizes: list[int]) -> Value:
    axis = call.axis("dim", len(call.shape_of("self")))
    if len(sizes) == 1:
        return (call.input("self"),)
    return call.builder.add_several(
        "Split", call.input("self"), call.builder.integers(sizes), outputs=len(sizes), axis=axis
    )


@translates(aten.unbind.int)
def unbind(call: Call) -> Value:
    """Every position along one axis."""
    before = call.shape_of("self")
    axis = call.axis("dim", len(before))
    x = call.input("self")
    return tuple(
        call.add("Gather", x, call.builder.constant(np.int64(i)), axis=axis)
        for i in range(before[axis])
    )


@translates(aten.flip.default)
def flip(call: Call) -> str:
    """Reverse the order along axes."""
    axes = call.axes("dims", len(call.shape))
    integers = call.builder.integers
    return call.add(
        "Slice",
        call.input("self"),
        integers([-1] * len(axes)),
        integers([np.iinfo(np.int64).min] * len(axes)),
        integers(axes),
        integers([-1] * len(axes)),
    )


@translates(aten.constant_pad_nd.default)
def pad(call: Call) -> str:
    """Add a constant around; negative amounts cut off."""
    rank, amounts = len(call.shape), [int(n) for n in call.argument("pad")]
    if not any(amounts):
        return call.input("self")
    front, back = [0] * rank, [0] * rank
    for i in range(len(amounts) // 2):
        front[rank - 1 - i], back[rank - 1 - i] = amounts[2 * i], amounts[2 * i + 1]
    value = call.scalar(call.argument("value"))
    return call.add("Pad", call.input("self"), call.builder.integers(front + back), value)
