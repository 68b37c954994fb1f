"""The product of three tensors, summed over axes: what a bilinear layer and its gradients are."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor


def trilinear(  # noqa: PLR0917 - the arguments of an ATen operator are positional
    first: Tensor,
    second: Tensor,
    third: Tensor,
    expand1: Sequence[int],
    expand2: Sequence[int],
    expand3: Sequence[int],
    sumdim: Sequence[int],
    unroll_dim: int = 1,
) -> Tensor:
    """Insert axes of length 1 where ``expand`` says, multiply, and sum over ``sumdim``."""
    product: Tensor | None = None
    for tensor, axes in ((first, expand1), (second, expand2), (third, expand3)):
        wide = tensor
        for axis in sorted(axes):
            wide = wide.unsqueeze(axis)
        product = wide if product is None else product * wide
    assert product is not None  # noqa: S101 - there are three factors
    return product.sum(list(sumdim)) if sumdim else product
