"""Optimizers, clipping and dropout compiled into the step pass the gate, and wrong ones do not."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from pocketfl.plan import LocalOptimizerSpec, TrainingSpec
from pocketfl_export import check_model
from pocketfl_export.randomness import random_numbers

torch.manual_seed(0)
X, Y = torch.randn(8, 6), torch.arange(8) % 3


def dense(dropout: float = 0.0) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Dropout(dropout), nn.Linear(8, 3))


def spec(clipping: str | None = None, **optimizer: object) -> TrainingSpec:
    return TrainingSpec(clipping=clipping, optimizer=LocalOptimizerSpec(**optimizer))


STEPS = {
    "momentum and weight decay": (spec(momentum=0.9, weight_decay=0.01), 0.0),
    "FedProx": (spec(proximal=0.5), 0.0),
    "Adam": (spec(kind="adam"), 0.0),
    "Adam with weight decay and FedProx": (
        spec(kind="adam", weight_decay=0.01, proximal=0.1),
        0.0,
    ),
    "AdamW": (spec(kind="adamw", weight_decay=0.1), 0.0),
    "each example clipped": (spec("example"), 0.0),
    "each example clipped, FedProx, Adam": (spec("example", kind="adam", proximal=0.1), 0.0),
    "dropout": (spec(), 0.3),
    "dropout, each example clipped": (spec("example"), 0.3),
}


@pytest.mark.parametrize(("training", "dropout"), STEPS.values(), ids=STEPS.keys())
def test_equals_torch(training: TrainingSpec, dropout: float) -> None:
    """Parameters and what the optimizer remembers, step by step, against torch.optim and autograd."""
    report = check_model(
        dense(dropout), F.cross_entropy, X, Y, runtimes=["onnxruntime"], training=training
    )
    assert report.ok, report.refused
    assert report.runtimes["onnxruntime"].max_parameter_error < 1e-6


@pytest.mark.slow
@pytest.mark.parametrize(("training", "dropout"), STEPS.values(), ids=STEPS.keys())
def test_equals_torch_on_executorch(training: TrainingSpec, dropout: float) -> None:
    """As above, on the other runtime."""
    report = check_model(
        dense(dropout), F.cross_entropy, X, Y, runtimes=["executorch"], training=training
    )
    assert report.ok, report.refused


def scaled(update: Callable, which: int) -> Callable:
    """Return an optimizer of which one result is off by two thousandths."""

    def wrong(*arguments: object) -> tuple[Tensor, ...]:
        results = list(update(*arguments))
        results[which] = results[which] * 1.002
        return tuple(results)

    return wrong


@pytest.mark.parametrize(
    ("training", "which"),
    [
        (spec(momentum=0.9), 1),
        (spec(kind="adam"), 1),
        (spec(kind="adam"), 2),
        (spec(kind="adam"), 0),
    ],
)
def test_a_slightly_wrong_optimizer_does_not_pass(
    training: TrainingSpec, which: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither parameters nor a moment may be off, though a step moves little."""
    from pocketfl_export import optimizers

    monkeypatch.setattr(optimizers, "update", scaled(optimizers.update, which))
    report = check_model(
        dense(), F.cross_entropy, X, Y, runtimes=["onnxruntime"], training=training
    )
    assert not report.ok
    assert "differs from torch" in report.refused[0].reason


def test_clipping_the_batch_is_not_clipping_examples(monkeypatch: pytest.MonkeyPatch) -> None:
    """A graph that clips the mean gradient where each example's was asked for is refused."""
    from pocketfl_export import steps

    monkeypatch.setattr(steps, "clipped_mean_of_examples", steps.mean_gradient)
    report = check_model(
        dense(), F.cross_entropy, X, Y, runtimes=["onnxruntime"], training=spec("example")
    )
    assert not report.ok


class Everywhere(nn.Module):
    """Dropout between recurrent layers, inside attention, and of whole channels."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.GRU(6, 8, num_layers=2, dropout=0.3, batch_first=True)
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.2, batch_first=True)
        self.channels = nn.Dropout1d(0.4)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        states = self.layer(self.cell(x)[0])
        return self.head(self.channels(states.transpose(1, 2)).mean(2))


def test_dropout_wherever_torch_has_it() -> None:
    """Masks reach the places that no module of the app's own shows."""
    torch.manual_seed(0)
    report = check_model(
        Everywhere(),
        F.cross_entropy,
        torch.randn(6, 4, 6),
        Y[:6],
        runtimes=["onnxruntime"],
        steps=10,
    )
    assert report.ok, report.refused


def test_masks_come_of_the_numbers_that_are_given() -> None:
    """An element is kept exactly where its number is below the probability of keeping it."""
    numbers = torch.rand(5, 7, generator=torch.Generator().manual_seed(0))
    with random_numbers(5, numbers) as source:
        kept = F.dropout(torch.ones(5, 7), 0.25, training=True)
    assert source.taken == 7
    torch.testing.assert_close(kept, (numbers < 0.75) / 0.75)
