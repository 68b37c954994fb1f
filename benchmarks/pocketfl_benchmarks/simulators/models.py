"""The two models, the same code for all; nothing but torch, for the peers have nothing else of ours."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

WIDTH = 184
"""Columns that the features of a flight make."""


class FlightsMlp(nn.Module):
    """The demo's model: one hidden layer of 32 units, 5,953 parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.Linear(WIDTH, 32)
        self.output = nn.Linear(32, 1)

    def forward(self, features: Tensor) -> Tensor:
        """Return logits, shape (rows,)."""
        logit: Tensor = self.output(torch.relu(self.hidden(features)))
        return logit.squeeze(-1)


class FashionCnn(nn.Module):
    """Two convolutions with max pooling and two dense layers over 28 x 28; 55,338 parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
        )
        self.head = nn.Sequential(
            nn.Flatten(), nn.Linear(32 * 7 * 7, 32), nn.ReLU(), nn.Linear(32, 10)
        )

    def forward(self, features: Tensor) -> Tensor:
        """Return the logits of ten classes."""
        logits: Tensor = self.head(self.features(features))
        return logits


def make_model(kind: str) -> nn.Module:
    """Return the model of a kind of work with the same initial parameters in every process."""
    torch.manual_seed(0)
    return FlightsMlp() if kind == "mlp" else FashionCnn()


def loss_of(kind: str, outputs: Tensor, target: Tensor) -> Tensor:
    """Return the mean loss of a batch."""
    if kind == "mlp":
        return F.binary_cross_entropy_with_logits(outputs, target)
    return F.cross_entropy(outputs, target)
