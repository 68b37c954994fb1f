"""Sums, means and maxima of the rows of an embedding table, as plain operators."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from pocketfl_export.errors import UnsupportedModelError


def embedding_bag(  # noqa: PLR0917 - torch's own signature
    input: Tensor,  # noqa: A002
    weight: Tensor,
    offsets: Tensor | None = None,
    max_norm: float | None = None,
    norm_type: float = 2,
    scale_grad_by_freq: bool = False,
    mode: str = "mean",
    sparse: bool = False,
    per_sample_weights: Tensor | None = None,
    include_last_offset: bool = False,
    padding_idx: int | None = None,
) -> Tensor:
    """``torch.nn.functional.embedding_bag`` for bags of one length, a row of indices each.

    Raises
    ------
    UnsupportedModelError
        For bags that are cut out of one long list, whose shapes depend on the example.
    """
    if input.dim() != 2 or offsets is not None:
        raise UnsupportedModelError(
            operator="embedding_bag with offsets",
            rewrite="give it a matrix, one bag of a fixed length per row, filled up with padding_idx",
            reason="the length of a bag would depend on the values of the example",
        )
    if max_norm is not None or scale_grad_by_freq:
        raise UnsupportedModelError(
            operator="embedding_bag with max_norm or scale_grad_by_freq",
            rewrite="leave both out; normalise the rows in forward with F.normalize",
            reason="the table would change in forward, or gradients depend on counts of indices",
        )
    rows = F.embedding(input, weight, padding_idx)
    if per_sample_weights is not None:
        rows = rows * per_sample_weights.unsqueeze(-1)
    if padding_idx is None:
        if mode == "max":
            return rows.max(1).values
        return rows.sum(1) if mode == "sum" else rows.mean(1)
    place = padding_idx % weight.shape[0]
    used = (input != place).unsqueeze(-1)
    count = used.to(rows.dtype).sum(1)
    if mode == "max":
        largest = torch.where(used, rows, torch.finfo(rows.dtype).min).max(1).values
        return torch.where(count > 0, largest, 0.0)
    total = torch.where(used, rows, 0.0).sum(1)
    return total if mode == "sum" else total / count.clamp_min(1)
