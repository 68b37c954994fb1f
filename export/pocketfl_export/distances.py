"""Distances between all pairs of two sets of vectors, as plain operators."""

from __future__ import annotations

import torch
from torch import Tensor


def cdist(
    x1: Tensor,
    x2: Tensor,
    p: float = 2.0,
    compute_mode: str = "use_mm_for_euclid_dist_if_necessary",
) -> Tensor:
    """``torch.cdist`` by the norm of every difference; the compute mode only changes rounding."""
    difference = x1.unsqueeze(-2) - x2.unsqueeze(-3)
    distances: Tensor = torch.linalg.vector_norm(difference, p, -1)
    return distances
