"""The gradient of an embedding table: rows of the output's gradient, added at their indices.

Scatter-add touches only the rows in use beyond clearing the table; the one-hot matrix product that
other exporters write costs ``batch x vocabulary x width``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pocketfl_export.errors import UnsupportedModelError

aten = torch.ops.aten


def embedding_dense_backward(
    grad_output: Tensor,
    indices: Tensor,
    num_weights: int,
    padding_idx: int,
    scale_grad_by_freq: bool,
) -> Tensor:
    """Return the gradient of the table, ``[num_weights, width]``; ``padding_idx`` gets none."""
    if scale_grad_by_freq:
        raise UnsupportedModelError(
            operator="aten.embedding_dense_backward with scale_grad_by_freq",
            rewrite="pass scale_grad_by_freq=False to the embedding",
            reason="counting how often each index occurs has no exact counterpart on a device",
        )
    width = int(grad_output.shape[-1])
    values = grad_output.reshape(-1, width)
    rows = indices.reshape(-1, 1)
    if padding_idx >= 0:
        values = values * (rows != padding_idx).to(values.dtype)
    zeros = torch.zeros(num_weights, width, dtype=grad_output.dtype)
    result: Tensor = aten.scatter_add.default(zeros, 0, rows.expand(-1, width), values)
    return result
