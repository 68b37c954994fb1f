"""Writing through a view of the memory, where it replaces everything in order: the source itself.

torch changes the strides of a pooled image of one pixel in place, which reaches a graph in this form.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils._mode_utils import no_dispatch

from pocketfl_export.errors import UnsupportedModelError


def as_strided_scatter(
    x: Tensor,
    source: Tensor,
    size: Sequence[int],
    stride: Sequence[int],
    storage_offset: int | None = None,
) -> Tensor:
    """Return the source where it has as many elements as ``x``, in the same places.

    Raises
    ------
    UnsupportedModelError
        For any other use of strides.
    """
    count = x.numel()
    with no_dispatch():
        memory = torch.arange(max(1, count))
        ours = torch.as_strided(memory, tuple(x.shape), tuple(x.stride())).reshape(-1)
        fits = source.numel() == count and not storage_offset
        theirs = torch.as_strided(memory, tuple(size), tuple(stride)).reshape(-1) if fits else None
        same = theirs is not None and torch.equal(ours, theirs)
    if not same:
        raise UnsupportedModelError(
            operator="aten.as_strided_scatter",
            rewrite="use slices, permute and reshape instead of as_strided",
            reason="devices know no strides",
        )
    return source.reshape(x.shape)
