"""Which operator each back end writes out in simpler ones."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch._decomp import core_aten_decompositions

from pocketfl_export.decompositions import (
    activations,
    convolution,
    embedding,
    normalization,
    norms,
    pooling,
    slices,
    sums,
)

aten = torch.ops.aten

Table = dict[Any, Callable[..., Any]]


@cache
def _core_table() -> Table:
    return dict(core_aten_decompositions())  # Takes a third of a second to collect.


def shared_table() -> Table:
    """Return torch's decompositions to core ATen, with ours where torch has none or a worse one."""
    table = dict(_core_table())
    table.update(
        {
            aten.convolution_backward.default: convolution.convolution_backward,
            aten.max_pool2d_with_indices_backward.default: pooling.max_pool2d_backward,
            aten.avg_pool2d_backward.default: pooling.avg_pool2d_backward,
            aten._adaptive_avg_pool2d.default: pooling.adaptive_avg_pool2d,
            aten._adaptive_avg_pool2d_backward.default: pooling.adaptive_avg_pool2d_backward,
            aten.embedding_dense_backward.default: embedding.embedding_dense_backward,
            aten.threshold_backward.default: activations.threshold_backward,
            aten.native_batch_norm.default: normalization.native_batch_norm,
            aten.linalg_vector_norm.default: norms.linalg_vector_norm,
            aten.slice_backward.default: slices.slice_backward,
            aten.slice_scatter.default: slices.slice_scatter,
        }
    )
    return table


def onnx_table() -> Table:
    """Return the decompositions for ONNX Runtime."""
    return shared_table()


def executorch_table() -> Table:
    """Return the decompositions for ExecuTorch; its package adds what only it needs."""
    return {**shared_table(), aten.sum.dim_IntList: sums.sum_in_stages}
