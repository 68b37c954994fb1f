"""Order along an axis."""

from __future__ import annotations

import torch

from pocketfl_export.onnx.registry import Call, translates

aten = torch.ops.aten


@translates(aten.topk.default)
def largest(call: Call) -> tuple[str, ...]:
    """The largest or smallest along one axis, and their positions."""
    return _ordered(call, int(call.argument("k")), bool(call.argument("largest")))


@translates(aten.sort.default, aten.sort.stable)
def sort(call: Call) -> tuple[str, ...]:
    """All along one axis in order, and their positions; equal elements keep their order."""
    shape = call.shape_of("self")
    axis = call.axis("dim", len(shape))
    return _ordered(call, shape[axis], bool(call.argument("descending")))


def _ordered(call: Call, count: int, largest_first: bool) -> tuple[str, ...]:
    axis = call.axis("dim", len(call.shape_of("self")))
    return call.builder.add_several(
        "TopK",
        call.input("self"),
        call.builder.integers([count]),
        outputs=2,
        axis=axis,
        largest=int(largest_first),
        sorted=1,
    )
