"""Reading a diagonal and writing one back, by a choice among constant positions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

aten = torch.ops.aten


def diagonal(x: Tensor, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Tensor:
    """Return the elements ``(i, i + offset)`` of two axes as a new last axis."""
    first, second = dim1 % x.dim(), dim2 % x.dim()
    matrices = _to_end(x, first, second)
    rows, columns = int(matrices.shape[-2]), int(matrices.shape[-1])
    places = torch.tensor([i * columns + j for i, j in _places(rows, columns, offset)])
    return matrices.flatten(-2).index_select(-1, places)


def diagonal_backward(
    grad_output: Tensor, input_sizes: Sequence[int], offset: int, dim1: int, dim2: int
) -> Tensor:
    """Return zeros with the gradient on the diagonal."""
    rank = len(input_sizes)
    first, second = dim1 % rank, dim2 % rank
    rows, columns = int(input_sizes[first]), int(input_sizes[second])
    places = _places(rows, columns, offset)
    # Row i of the result takes element number k of the gradient, in column i + offset.
    matrix = torch.zeros(len(places), rows * columns, dtype=grad_output.dtype)
    chosen = [[float(p == i * columns + j) for p in range(rows * columns)] for i, j in places]
    matrix = torch.tensor(chosen, dtype=grad_output.dtype)
    spread = (grad_output.unsqueeze(-2) @ matrix).squeeze(-2)
    result = spread.reshape(*grad_output.shape[:-1], rows, columns)
    order = [axis for axis in range(rank) if axis not in (first, second)] + [first, second]
    return result.permute(sorted(range(rank), key=order.__getitem__))


def _to_end(x: Tensor, first: int, second: int) -> Tensor:
    rest = [axis for axis in range(x.dim()) if axis not in (first, second)]
    return x.permute(*rest, first, second)


def _places(rows: int, columns: int, offset: int) -> list[tuple[int, int]]:
    return [(i, i + offset) for i in range(rows) if 0 <= i + offset < columns]
