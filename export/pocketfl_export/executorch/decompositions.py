"""Which operators are written out in simpler ones for ExecuTorch only."""

from __future__ import annotations

import torch

from pocketfl_export.decompositions.tables import Table, executorch_table
from pocketfl_export.executorch import (
    activations,
    convolution,
    normalization,
    padding,
    pooling,
)

aten = torch.ops.aten


def decomposition_table() -> Table:
    """Return the table with which a model is traced for :func:`pocketfl_export.executorch.lower`."""
    table = executorch_table()
    table.update(
        {
            aten.convolution.default: convolution.convolution,
            aten.convolution_backward.default: convolution.convolution_backward,
            aten.max_pool2d_with_indices.default: pooling.max_pool2d_with_indices,
            aten.max_pool2d_with_indices_backward.default: pooling.max_pool2d_backward,
            aten.avg_pool2d.default: pooling.avg_pool2d,
            aten.avg_pool2d_backward.default: pooling.avg_pool2d_backward,
            aten.native_group_norm.default: normalization.native_group_norm,
            aten.native_group_norm_backward.default: normalization.native_group_norm_backward,
            aten.constant_pad_nd.default: padding.constant_pad_nd,
            aten.gelu.default: activations.gelu,
            aten.hardtanh_backward.default: activations.hardtanh_backward,
            aten.threshold_backward.default: activations.threshold_backward,
        }
    )
    return table
