"""Losses that are a mean over examples, in place of torch's that divide by something of the batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812


def class_weighted_cross_entropy(
    weight: Tensor | Sequence[float], *, label_smoothing: float = 0.0
) -> Callable[[Tensor, Tensor], Tensor]:
    """Return a cross entropy with a weight per class, averaged over the examples.

    ``torch.nn.CrossEntropyLoss(weight=...)`` divides by the weights of the batch's own classes, which
    makes an example count for more in one batch than in another. Weights are scaled to a mean of 1, so
    that learning rates keep their meaning.

    Parameters
    ----------
    weight : Tensor or sequence of float, shape (classes,)
        Not negative, not all 0.
    label_smoothing : float
        As in torch.

    Raises
    ------
    ValueError
        If the weights are not of that kind.
    """
    values = torch.as_tensor(weight, dtype=torch.float32).flatten()
    if values.numel() == 0 or not bool((values >= 0).all()) or not 0 < float(values.sum()) < 1e30:
        raise ValueError("class weights must be finite, at least 0, and not all 0")
    scaled = values / values.mean()

    def loss(outputs: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(
            outputs, target, weight=scaled, label_smoothing=label_smoothing, reduction="none"
        ).mean()

    return loss


def ignoring_cross_entropy(ignore_index: int) -> Callable[[Tensor, Tensor], Tensor]:
    """Return a cross entropy in which a target that is to be ignored adds 0 to the mean.

    torch divides by the number of targets that are not ignored; this divides by all of them.
    """

    def loss(outputs: Tensor, target: Tensor) -> Tensor:
        used = target != ignore_index
        losses = F.cross_entropy(outputs, torch.where(used, target, 0), reduction="none")
        return torch.where(used, losses, 0.0).mean()

    return loss
