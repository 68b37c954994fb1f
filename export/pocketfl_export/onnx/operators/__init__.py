"""Translators of ATen operators, one family per module; importing this registers them all."""

from pocketfl_export.onnx.operators import (
    comparison,
    convolution,
    creation,
    elementwise,
    indexing,
    matrix,
    normalization,
    pooling,
    reduction,
    shape,
    sorting,
)
from pocketfl_export.onnx.registry import TRANSLATORS

__all__ = [
    "TRANSLATORS",
    "comparison",
    "convolution",
    "creation",
    "elementwise",
    "indexing",
    "matrix",
    "normalization",
    "pooling",
    "reduction",
    "shape",
    "sorting",
]
