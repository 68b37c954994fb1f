"""Whole models: what does not belong to one operator."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from .problems import CLASSES, NUMBERS, VECTORS, WORDS, Forward, add

# Models -------------------------------------------------------------------------------------------


class Tied(nn.Module):
    """The table is the head's matrix, transposed."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(12, 8)
        self.head = nn.Linear(8, 12, bias=False)
        self.head.weight = self.table.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.table(x).mean(1)))


def _frozen() -> nn.Module:
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, CLASSES))
    model[0].requires_grad_(False)
    return model


class Unused(nn.Module):
    """A layer that forward does not reach."""

    def __init__(self) -> None:
        super().__init__()
        self.used = nn.Linear(6, CLASSES)
        self.unused = nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.used(x)


class Heads(nn.Module):
    """Two inputs and two heads."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(12, 8)
        self.dense = nn.Linear(6, 8)
        self.label = nn.Linear(8, CLASSES)
        self.size = nn.Linear(8, 1)

    def forward(self, words: Tensor, numbers: Tensor) -> tuple[Tensor, Tensor]:
        state = torch.tanh(self.table(words).mean(1) + self.dense(numbers))
        return self.label(state), self.size(state).squeeze(1)


def _two_losses(outputs: tuple[Tensor, Tensor], target: Tensor) -> Tensor:
    return F.cross_entropy(outputs[0], target) + F.mse_loss(outputs[1], target.float())


def _with_buffer() -> nn.Module:
    model = Forward(lambda self, x: self.head((x - self.mean) / 2), head=nn.Linear(6, CLASSES))
    model.register_buffer("mean", torch.arange(6.0))
    return model


add("Model", "tied weights", Tied, WORDS, target=WORDS[:, 0])
add("Model", "frozen layer", _frozen, VECTORS)
add("Model", "parameter without a gradient", Unused, VECTORS)
add("Model", "two inputs, two heads", Heads, (WORDS, NUMBERS), loss=_two_losses)
add("Model", "buffer", _with_buffer, VECTORS)
add(
    "Model",
    "control flow by value",
    lambda: Forward(
        lambda self, x: self.head(x if x.sum() > 0 else -x), head=nn.Linear(6, CLASSES)
    ),
    VECTORS,
)
