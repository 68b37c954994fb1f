"""Reading and adding at positions that are data."""

from __future__ import annotations

import numpy as np
import torch
from torch import fx

from pocketfl_export.onnx.registry import Call, Untranslatable, translates

aten = torch.ops.aten


@translates(aten.embedding.default)
def embedding(call: Call) -> str:
    """Rows of a table."""
    return call.add("Gather", call.input("weight"), call.input("indices"), axis=0)


@translates(aten.index_select.default)
def index_select(call: Call) -> str:
    """Positions along one axis."""
    axis = call.axis("dim", len(call.shape_of("self")))
    return call.add("Gather", call.input("self"), call.input("index"), axis=axis)


@translates(aten.gather.default)
def gather(call: Call) -> str:
    """One element per index along one axis."""
    axis = call.axis("dim", len(call.shape_of("self")))
    return call.add("GatherElements", call.input("self"), call.input("index"), axis=axis)


@translates(aten.scatter_add.default)
def scatter_add(call: Call) -> str:
    """Add at positions along one axis; whole rows at once where the index is the same along a row."""
    axis = call.axis("dim", len(call.shape))
    rows = _row_index(call) if axis == 0 else None
    if rows is not None:
        index = call.reshape(call.value(rows), [int(rows.meta["val"].shape[0]), 1])
        return call.add("ScatterND", call.input("self"), index, call.input("src"), reduction="add")
    return call.add(
        "ScatterElements",
        call.input("self"),
        call.input("index"),
        call.input("src"),
        axis=axis,
        reduction="add",
    )


def _row_index(call: Call) -> fx.Node | None:
    """Return the column of indices of which ``index`` is an expansion over whole rows."""
    index = call.argument("index")
    if index.target is not aten.expand.default:
        return None
    column = index.args[0]
    wide = [int(n) for n in index.meta["val"].shape]
    narrow = [int(n) for n in column.meta["val"].shape]
    if wide[1:] != call.shape[1:] or narrow != [wide[0]] + [1] * (len(wide) - 1):
        return None
    found: fx.Node = column
    return found


@translates(aten.scatter.src, aten.scatter.value)
def scatter(call: Call) -> str:
    """Write at positions along one axis."""
    axis = call.axis("dim", len(call.shape))
    index = call.input("index")
    if "src" in str(call.node.target):
        source = call.input("src")
    else:
        shape = call.shape_of("index")
        source = call.builder.filled(shape, call.argument("value"), call.dtype)
    return call.add("ScatterElements", call.input("self"), index, source, axis=axis)


@translates(aten.index.Tensor)
def index(call: Call) -> str:
    """Positions from index tensors, for one axis or for the first ones."""
    indices = call.argument("indices")
    axis = _single_axis(indices)
    if axis is not None:
        return call.add("Gather", call.input("self"), call.value(indices[axis]), axis=axis)
    return call.add("GatherND", call.input("self"), _joined(call, indices))


@translates(aten.index_put.default)
def index_put(call: Call) -> str:
    """Write or add at positions from index tensors, for one axis or for the first ones."""
    indices = call.argument("indices")
    reduction = "add" if call.argument("accumulate") else "none"
    x, shape = call.input("self"), call.shape
    axis = _single_axis(indices) or 0
    if axis:  # The indexed axis goes to the front, and back afterwards.
        indices = [indices[axis]]
        front = [axis, *range(axis), *range(axis + 1, len(shape))]
        x = call.add("Transpose", x, perm=front)
    where = _joined(call, indices)
    spread = list(np.broadcast_shapes(*(tuple(i.meta["val"].shape) for i in indices)))
    wanted = [*shape[:axis], *spread, *shape[axis + len(indices) :]]
    values = call.input("values", call.dtype)
    if call.shape_of("values") != wanted:
        values = call.add("Expand", values, call.builder.integers(wanted))
    if not axis:
        return call.add("ScatterND", x, where, values, reduction=reduction)
    width = len(spread)
    order = [*range(axis, axis + width), *range(axis), *range(axis + width, len(wanted))]
    values = call.add("Transpose", values, perm=order)
    result = call.add("ScatterND", x, where, values, reduction=reduction)
    back = [*range(1, axis + 1), 0, *range(axis + 1, len(shape))]
    return call.add("Transpose", result, perm=back)


def _single_axis(indices: list[fx.Node | None]) -> int | None:
    """Return the axis if exactly one axis is indexed, by positions."""
    given = [(axis, node) for axis, node in enumerate(indices) if node is not None]
    if len(given) == 1 and given[0][1].meta["val"].dtype == torch.int64:
        return given[0][0]
    return None


def _joined(call: Call, indices: list[fx.Node | None]) -> str:
    """Return the index tensors side by side along a new last axis."""
    nodes = [i for i in indices if i is not None]
    if len(nodes) != len(indices):
        raise Untranslatable("several index tensors with an axis between or before them")
    if any(i.meta["val"].dtype != torch.int64 for i in nodes):
        raise Untranslatable("a mask as an index; choose with torch.where instead")
    shape = list(np.broadcast_shapes(*(tuple(i.meta["val"].shape) for i in nodes)))
    columns = []
    for node in nodes:
        value = call.value(node)
        if list(node.meta["val"].shape) != shape:
            value = call.add("Expand", value, call.builder.integers(shape))
        columns.append(call.reshape(value, [*shape, 1]))
    return columns[0] if len(columns) == 1 else call.add("Concat", *columns, axis=len(shape))
