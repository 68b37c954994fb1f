"""Which operator each back end writes out in simpler ones."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch._decomp import core_aten_decompositions

from pocketfl_export.decompositions import (
    activations,
    adaptive_max_pool,
    arithmetic,
    boundaries,
    convolution,
    diagonals,
    embedding,
    normalization,
    norms,
    pooling,
    replication,
    resampling,
    slices,
    strides,
    sums,
    trilinear,
    unfolding,
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
            aten.select_backward.default: slices.select_backward,
            aten.slice_scatter.default: slices.slice_scatter,
            aten.adaptive_max_pool2d.default: adaptive_max_pool.adaptive_max_pool2d,
            aten.adaptive_max_pool2d_backward.default: (
                adaptive_max_pool.adaptive_max_pool2d_backward
            ),
            aten.upsample_nearest1d.default: resampling.upsample_nearest1d,
            aten.upsample_nearest1d_backward.default: resampling.upsample_nearest1d_backward,
            aten.upsample_nearest2d.default: resampling.upsample_nearest2d,
            aten.upsample_nearest2d_backward.default: resampling.upsample_nearest2d_backward,
            aten.upsample_linear1d.default: resampling.upsample_linear1d,
            aten.upsample_linear1d_backward.default: resampling.upsample_linear1d_backward,
            aten.upsample_bilinear2d.default: resampling.upsample_bilinear2d,
            aten.upsample_bilinear2d_backward.default: resampling.upsample_bilinear2d_backward,
            aten.replication_pad1d_backward.default: replication.replication_pad_backward,
            aten.replication_pad2d_backward.default: replication.replication_pad_backward,
            aten.unfold.default: unfolding.unfold,
            aten.unfold_backward.default: unfolding.unfold_backward,
            aten.im2col.default: unfolding.im2col,
            aten.col2im.default: unfolding.col2im,
            aten.diagonal.default: diagonals.diagonal,
            aten.diagonal_backward.default: diagonals.diagonal_backward,
            aten._trilinear.default: trilinear.trilinear,
            aten.as_strided_scatter.default: strides.as_strided_scatter,
            aten.bucketize.Tensor: boundaries.bucketize,
            aten.softshrink_backward.default: activations.shrink_backward,
            aten.hardshrink_backward.default: activations.shrink_backward,
            aten.hypot.default: arithmetic.hypot,
            aten.copy.default: arithmetic.copy,
        }
    )
    return table


def onnx_table() -> Table:
    """Return the decompositions for ONNX Runtime."""
    return {**shared_table(), aten.avg_pool2d.default: pooling.avg_pool2d}


def executorch_table() -> Table:
    """Return the decompositions for ExecuTorch; its package adds what only it needs."""
    return {**shared_table(), aten.sum.dim_IntList: sums.sum_in_stages}
