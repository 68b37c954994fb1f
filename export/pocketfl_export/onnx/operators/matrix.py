"""Matrix products; transposed operands are read in place by ``Gemm``."""

from __future__ import annotations

import torch
from torch import fx

from pocketfl_export.onnx.registry import Call, translates

aten = torch.ops.aten


def _matrix(call: Call, name: str) -> tuple[str, int]:
    """Return a matrix operand and whether ``Gemm`` is to transpose it."""
    node = call.argument(name)
    if isinstance(node, fx.Node) and node.target is aten.permute.default:
        return call.value(node.args[0]), 1
    return call.input(name), 0


@translates(aten.mm.default)
def product(call: Call) -> str:
    """``a b``."""
    left, transposed_left = _matrix(call, "self")
    right, transposed_right = _matrix(call, "mat2")
    if not transposed_left and not transposed_right:
        return call.add("MatMul", left, right)
    return call.add("Gemm", left, right, transA=transposed_left, transB=transposed_right)


@translates(aten.addmm.default)
def product_and_sum(call: Call) -> str:
    """``beta c + alpha a b``."""
    left, transposed_left = _matrix(call, "mat1")
    right, transposed_right = _matrix(call, "mat2")
    return call.add(
        "Gemm",
        left,
        right,
        call.input("self"),
        alpha=float(call.argument("alpha")),
        beta=float(call.argument("beta")),
        transA=transposed_left,
        transB=transposed_right,
    )


@translates(aten.bmm.default, aten.matmul.default)
def batch_product(call: Call) -> str:
    """A product per row of the batch."""
    second = "mat2" if call.overload == "bmm" else "other"
    return call.add("MatMul", call.input("self"), call.input(second))


@translates(aten.baddbmm.default)
def batch_product_and_sum(call: Call) -> str:
    """``beta c + alpha a b`` per row of the batch."""
    result = call.add("MatMul", call.input("batch1"), call.input("batch2"))
    if call.argument("alpha") != 1:
        result = call.add("Mul", result, call.scalar(call.argument("alpha")))
    addend = call.input("self")
    if call.argument("beta") != 1:
        addend = call.add("Mul", addend, call.scalar(call.argument("beta")))
    return call.add("Add", addend, result)


@translates(aten.mv.default, aten.dot.default)
def product_with_vector(call: Call) -> str:
    """A matrix or a vector with a vector.

    The vector becomes a column: ONNX Runtime 1.28 optimises a transposed matrix times a vector of one
    dimension into something that computes wrong numbers.
    """
    second = "vec" if call.overload == "mv" else "tensor"
    column = call.reshape(call.input(second), [-1, 1])
    return call.reshape(call.add("MatMul", call.input("self"), column), call.shape)
