"""Normalisation that looks at one example alone, in place of that which looks at the batch."""

from __future__ import annotations

from typing import Final

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

MOST_GROUPS: Final = 32
"""Of Wu and He, "Group Normalization" (arXiv 1803.08494), section 4.1."""


def group_norm_for(norm: _BatchNorm) -> nn.GroupNorm:
    """Return the group normalisation that stands in for a batch normalisation.

    It normalises each example by itself. The scale and shift of the original are kept; its stored
    statistics have no place in it, so a trained model needs some further training.

    Parameters
    ----------
    norm : BatchNorm1d, BatchNorm2d or BatchNorm3d
        Of C channels.

    Returns
    -------
    GroupNorm
        With the largest number of groups up to 32 that divides C and leaves more than one channel in
        each where it can.
    """
    channels = norm.num_features
    groups = max(
        (n for n in range(1, min(MOST_GROUPS, max(1, channels // 2)) + 1) if channels % n == 0),
        default=1,
    )
    made = nn.GroupNorm(groups, channels, eps=norm.eps, affine=norm.affine)
    if norm.affine:
        with torch.no_grad():
            made.weight.copy_(norm.weight)
            made.bias.copy_(norm.bias)
        made.weight.requires_grad_(norm.weight.requires_grad)
        made.bias.requires_grad_(norm.bias.requires_grad)
    return made.train(norm.training)


def freeze_batch_norm(norm: _BatchNorm) -> _BatchNorm:
    """Return the batch normalisation in eval mode: it keeps its statistics and trains its scale.

    Raises
    ------
    ValueError
        If it has no statistics to keep.
    """
    if norm.running_mean is None:
        raise ValueError(
            "a batch normalisation without running statistics cannot be frozen: replace it by "
            "group_norm_for(norm)"
        )
    return norm.eval()


def instance_norm_without_statistics(norm: _InstanceNorm) -> _InstanceNorm:
    """Return the instance normalisation without running statistics; scale and shift are kept."""
    made = type(norm)(
        norm.num_features, eps=norm.eps, affine=norm.affine, track_running_stats=False
    )
    made.load_state_dict(
        {name: value for name, value in norm.state_dict().items() if name in made.state_dict()}
    )
    return made.train(norm.training)
