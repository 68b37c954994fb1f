"""Models beyond the zoo, as apps write them, pass the gate as they are."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from pocketfl_export import check_model


class Recurrent(nn.Module):
    """Two layers of LSTM and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(6, 8, num_layers=2, batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(x)[0][:, -1])


class Heads(nn.Module):
    """Two inputs, one of them a mask, and three outputs of different types."""

    def __init__(self) -> None:
        super().__init__()
        self.label = nn.Linear(6, 3)
        self.size = nn.Linear(6, 1)

    def forward(self, x: Tensor, missing: Tensor) -> dict[str, Tensor]:
        known = x.masked_fill(missing, 0.0)
        logits = self.label(known)
        size = self.size(known).squeeze(1)
        return {"logits": logits, "size": size, "best": logits.argmax(1)}


def two_losses(outputs: dict[str, Tensor], target: Tensor) -> Tensor:
    return F.cross_entropy(outputs["logits"], target) + F.mse_loss(outputs["size"], target.float())


class Attention(nn.Module):
    """Multi-head attention, whose key bias has a gradient of 0 up to rounding."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.attention(x, x, x)[0].mean(1))


class Tagger(nn.Module):
    """A class per word."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(30, 8)
        self.head = nn.Linear(8, 30)

    def forward(self, words: Tensor) -> Tensor:
        return self.head(torch.tanh(self.table(words)))


def per_word(outputs: Tensor, target: Tensor) -> Tensor:
    return F.cross_entropy(outputs.flatten(0, 1), target.flatten())


def depthwise() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1, groups=8),
        nn.GroupNorm(2, 8),
        nn.SiLU(),
        nn.Conv2d(8, 12, 1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(12, 3),
    )


def autoencoder() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, 2, 1), nn.ReLU(), nn.ConvTranspose2d(6, 3, 4, 2, 1), nn.Sigmoid()
    )


torch.manual_seed(0)
LABELS = torch.randint(0, 3, (6,))
IMAGES = torch.rand(6, 3, 8, 8)
WORDS = torch.randint(0, 30, (6, 5))

CASES: dict[str, tuple[Callable[[], nn.Module], Callable, object, Tensor]] = {
    "recurrent": (Recurrent, F.cross_entropy, torch.randn(6, 5, 6), LABELS),
    "heads": (Heads, two_losses, (torch.randn(6, 6), torch.rand(6, 6) > 0.5), LABELS),
    "attention": (Attention, F.cross_entropy, torch.randn(6, 5, 8), LABELS),
    "tagger": (Tagger, per_word, WORDS, WORDS),
    "depthwise": (depthwise, nn.CrossEntropyLoss(label_smoothing=0.1), IMAGES, LABELS),
    "autoencoder": (autoencoder, nn.MSELoss(), IMAGES, IMAGES),
    "one example": (lambda: nn.Linear(6, 3), F.cross_entropy, torch.randn(1, 6), LABELS[:1]),
}


@pytest.mark.parametrize(("make", "loss", "inputs", "target"), CASES.values(), ids=CASES.keys())
def test_passes_the_gate(
    make: Callable[[], nn.Module], loss: Callable, inputs: object, target: Tensor
) -> None:
    """Training, evaluation and prediction equal eager torch."""
    torch.manual_seed(0)
    report = check_model(make(), loss, inputs, target, runtimes=["onnxruntime"], steps=10)
    assert report.ok, report.refused
