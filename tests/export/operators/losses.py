"""Losses."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from .problems import CLASSES, LABELS, NUMBERS, PROBABILITIES, VECTORS, add

# Losses -------------------------------------------------------------------------------------------


def _loss(name: str, loss: Callable[..., Tensor], target: Tensor, width: int = CLASSES) -> None:
    add(
        "Loss",
        name,
        lambda: nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, width)),
        VECTORS,
        loss=loss,
        target=target,
    )


CLASS_WEIGHT = torch.tensor([1.0, 2.0, 0.5])
_loss("cross_entropy", F.cross_entropy, LABELS)
_loss("cross_entropy label_smoothing", nn.CrossEntropyLoss(label_smoothing=0.1), LABELS)
_loss(
    "cross_entropy weight, mean over examples",
    lambda o, t: F.cross_entropy(o, t, weight=CLASS_WEIGHT, reduction="none").mean(),
    LABELS,
)
_loss(
    "cross_entropy weight, divided by the weights", nn.CrossEntropyLoss(weight=CLASS_WEIGHT), LABELS
)
_loss(
    "cross_entropy weight and label_smoothing",
    lambda o, t: F.cross_entropy(
        o, t, weight=CLASS_WEIGHT, reduction="none", label_smoothing=0.1
    ).mean(),
    LABELS,
)
_loss("cross_entropy ignore_index", nn.CrossEntropyLoss(ignore_index=0), LABELS)
_loss("cross_entropy with probabilities", F.cross_entropy, PROBABILITIES.softmax(1), 6)
_loss("nll_loss", lambda o, t: F.nll_loss(F.log_softmax(o, 1), t), LABELS)
_loss("binary_cross_entropy_with_logits", F.binary_cross_entropy_with_logits, PROBABILITIES, 6)
_loss(
    "binary_cross_entropy_with_logits pos_weight",
    nn.BCEWithLogitsLoss(pos_weight=torch.rand(6)),
    PROBABILITIES,
    6,
)
_loss(
    "binary_cross_entropy",
    lambda o, t: F.binary_cross_entropy(torch.sigmoid(o), t),
    PROBABILITIES,
    6,
)
_loss("mse_loss", F.mse_loss, NUMBERS, 6)
_loss("l1_loss", F.l1_loss, NUMBERS, 6)
_loss("huber_loss", F.huber_loss, NUMBERS, 6)
_loss("smooth_l1_loss", F.smooth_l1_loss, NUMBERS, 6)
_loss(
    "kl_div batchmean",
    lambda o, t: F.kl_div(F.log_softmax(o, 1), t, reduction="batchmean"),
    PROBABILITIES.softmax(1),
    6,
)
_loss(
    "kl_div log_target",
    lambda o, t: F.kl_div(F.log_softmax(o, 1), t, reduction="batchmean", log_target=True),
    NUMBERS.log_softmax(1),
    6,
)
_loss(
    "cosine_embedding_loss",
    lambda o, t: F.cosine_embedding_loss(o, t, torch.ones(len(t))),
    NUMBERS,
    6,
)
_loss("cosine_similarity loss", lambda o, t: (1 - F.cosine_similarity(o, t)).mean(), NUMBERS, 6)
_loss("poisson_nll_loss", F.poisson_nll_loss, PROBABILITIES, 6)
_loss(
    "gaussian_nll_loss",
    lambda o, t: F.gaussian_nll_loss(o[:, :3], t[:, :3], F.softplus(o[:, 3:])),
    NUMBERS,
    6,
)
_loss("soft_margin_loss", F.soft_margin_loss, NUMBERS.sign(), 6)
_loss("hinge_embedding_loss", F.hinge_embedding_loss, NUMBERS.sign(), 6)
_loss("multi_margin_loss", F.multi_margin_loss, LABELS)
_loss("multilabel_soft_margin_loss", F.multilabel_soft_margin_loss, PROBABILITIES.round(), 6)
_loss("triplet_margin_loss", lambda o, t: F.triplet_margin_loss(o, t, t.flip(1)), NUMBERS, 6)
_loss(
    "focal loss",
    lambda o, t: (
        (1 - torch.exp(-F.cross_entropy(o, t, reduction="none"))) ** 2
        * F.cross_entropy(o, t, reduction="none")
    ).mean(),
    LABELS,
)
