"""Engines: each trains what it says it trains, and as the exported step does."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from pocketfl.plan import TrainingSpec
from pocketfl_export.problem import TrainingProblem, make_problem
from pocketfl_simulation.engines import DenseEngine, EagerEngine, Engine, TorchEngine
from pocketfl_simulation.engines.eager import is_plain_mean
from pocketfl_simulation.packing import PackedSteps

ROWS, BATCH = 90, 8


class Layered(nn.Module):
    """Dense layers with functions, modules and methods between, one without a bias."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(40, 32, bias=False)
        self.second = nn.Linear(32, 6)
        self.third = nn.Linear(6, 1)
        self.squash = nn.Tanh()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.third(self.squash(self.second(torch.relu(self.first(x))))).squeeze(1)


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Linear(4, 4)
        self.out = nn.Linear(4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(torch.relu(self.one(torch.relu(self.one(x))))).squeeze(-1)


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Linear(4, 4)
        self.out = nn.Linear(4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(x + torch.relu(self.one(x))).squeeze(-1)


def frozen() -> nn.Module:
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 1), nn.Flatten(0))
    model[0].bias.requires_grad_(requires_grad=False)
    return model


def classes(*layers: nn.Module) -> nn.Module:
    return nn.Sequential(*layers, nn.Linear(12, 3))


def convolution() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 3)
    )


WEIGHTED = nn.CrossEntropyLoss(weight=torch.tensor([0.2, 1.0, 3.0]))


def problem(
    model: nn.Module,
    shape: tuple[int, ...],
    *,
    loss: Callable[..., torch.Tensor],
    **training: object,
) -> TrainingProblem:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(BATCH, *shape, generator=generator)
    binary = loss is nn.functional.binary_cross_entropy_with_logits
    target = torch.randint(0, 2 if binary else 3, (BATCH,), generator=generator)
    spec = TrainingSpec(**{"learning_rate": 0.3, "max_gradient_norm": 0.4, **training})
    return make_problem(model, loss, x, target.float() if binary else target, spec)


def steps_for(given: TrainingProblem) -> PackedSteps:
    """Three devices of 1, 3 and 2 steps and one of none; short batches and uneven weights."""
    generator = np.random.default_rng(0)
    shape = given.spec.inputs[0].shape
    weight = np.ones((6, BATCH), np.float32)
    weight[0, 5:] = weight[3, 2:] = 0
    weight[4] = generator.random(BATCH)
    high = 2 if given.spec.target.dtype == "float32" else 3
    target = generator.integers(0, high, size=ROWS).astype(given.spec.target.dtype)
    return PackedSteps(
        arrays={
            given.spec.inputs[0].name: generator.normal(size=(ROWS, *shape)).astype(np.float32),
            "target": target,
        },
        rows=generator.integers(0, ROWS, size=(6, BATCH)),
        weight=weight,
        learning_rate=np.array([0.3, 0.3, 0.1, 0.3, 0.3, 0.2], np.float32),
        begins=np.array([1, 1, 0, 0, 1, 0], np.bool_),
        counts=np.array([1, 3, 0, 2]),
    )


BINARY = nn.functional.binary_cross_entropy_with_logits
CASES: dict[str, tuple[type[DenseEngine | EagerEngine], Callable[[], TrainingProblem]]] = {
    "dense, one logit": (DenseEngine, lambda: problem(Layered(), (40,), loss=BINARY)),
    "dense, weighted classes": (
        DenseEngine,
        lambda: problem(classes(nn.Linear(5, 12), nn.Sigmoid()), (5,), loss=WEIGHTED),
    ),
    "dense, one layer": (DenseEngine, lambda: problem(classes(), (12,), loss=WEIGHTED)),
    "eager, weighted classes": (
        EagerEngine,
        lambda: problem(convolution(), (1, 6, 6), loss=WEIGHTED),
    ),
    "eager, plain loss": (
        EagerEngine,
        lambda: problem(convolution(), (1, 6, 6), loss=nn.functional.cross_entropy),
    ),
}


@pytest.mark.parametrize("case", sorted(CASES))
def test_engines_take_the_exported_step(case: str) -> None:
    """Clipped, weighted, uneven: as the step under ``vmap``, which is the one that is exported."""
    torch.manual_seed(0)
    kind, make = CASES[case]
    given = make()
    steps, start = steps_for(given), given.initial_parameters().numpy()
    engine: Engine | None = kind.of(given)
    assert engine is not None
    expected = TorchEngine(given, device="cpu").train(steps, start)
    assert np.abs(expected).max() > 1e-2
    np.testing.assert_allclose(engine.train(steps, start), expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize(
    ("model", "training"),
    [
        (Tied(), {}),
        (Residual(), {}),
        (frozen(), {}),
        (nn.Sequential(nn.Linear(4, 1), nn.Dropout(0.5), nn.Flatten(0)), {}),
        (nn.Sequential(nn.Linear(4, 1), nn.Flatten(0)), {"clipping": "example"}),
        (nn.Sequential(nn.LayerNorm(4), nn.Linear(4, 1), nn.Flatten(0)), {}),
    ],
    ids=["tied", "residual", "frozen", "dropout", "example clipping", "other layers"],
)
def test_what_is_no_chain_of_dense_layers_is_left_to_others(
    model: nn.Module, training: dict[str, object]
) -> None:
    """An engine that cannot train a model as it is says so, instead of training another."""
    assert DenseEngine.of(problem(model, (4,), loss=BINARY, **training)) is None


def test_eager_training_has_no_dropout() -> None:
    """Its coins would not be the plan's."""
    model = nn.Sequential(nn.Linear(4, 1), nn.Dropout(0.5), nn.Flatten(0))
    assert EagerEngine.of(problem(model, (4,), loss=BINARY)) is None


def test_a_loss_is_taken_as_a_mean_only_where_it_is_one() -> None:
    """Weights of classes, even of one that no example has, and sums are no plain means."""
    rare = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 1.0, 3.0]))
    image = (1, 6, 6)
    assert is_plain_mean(problem(convolution(), image, loss=nn.functional.cross_entropy))
    assert not is_plain_mean(problem(convolution(), image, loss=rare))
    line = nn.Sequential(nn.Linear(4, 1), nn.Flatten(0))
    assert is_plain_mean(problem(line, (4,), loss=BINARY))
    assert not is_plain_mean(problem(line, (4,), loss=nn.BCEWithLogitsLoss(reduction="sum")))
