"""Engines: each trains what it says it trains, and as the exported step does."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from pocketfl.plan import TrainingSpec
from pocketfl.plan.training import LocalOptimizerSpec
from pocketfl_export.problem import TrainingProblem, make_problem
from pocketfl_simulation.engines import (
    CompiledEngine,
    DenseEngine,
    EagerEngine,
    Engine,
    TorchEngine,
)
from pocketfl_simulation.engines.blocks import PooledConvolution, fuse_blocks
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


def blocks(*, padding: int = 1) -> nn.Module:
    """One channel, then several; odd sides, of which pooling drops a row and a column."""
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=padding),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(4, 3, 3, padding=1, bias=False),
        nn.MaxPool2d(2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(3 * 2 * 2, 3),
    )


class Functional(nn.Module):
    """A block in functions, and a convolution that is none: its values go to two places."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 4, 3, padding=1)
        self.second = nn.Conv2d(4, 3, 3, padding=1)
        self.out = nn.Linear(3 * 2 * 2, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = nn.functional.max_pool2d(torch.relu(self.first(x)), 2)
        x = self.second(x)
        x = nn.functional.max_pool2d(x.relu(), kernel_size=2) - nn.functional.avg_pool2d(x, 2)
        return self.out(x.flatten(1))


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
    "compiled, blocks": (
        CompiledEngine,
        lambda: problem(blocks(), (1, 9, 11), loss=nn.functional.cross_entropy),
    ),
    "compiled, functions, momentum": (
        CompiledEngine,
        lambda: problem(
            Functional(), (1, 9, 9), loss=WEIGHTED, optimizer=LocalOptimizerSpec(momentum=0.9)
        ),
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


def test_blocks_are_found_and_keep_their_parameters_names() -> None:
    """In modules and functions, ReLU before or after the pool; each is one module then."""
    fused = fuse_blocks(blocks())
    assert fused is not None
    assert [name for name, _ in fused.named_parameters()] == [
        name for name, _ in blocks().named_parameters()
    ]
    calls = [node.target for node in fused.graph.nodes if node.op == "call_module"]
    assert calls == ["0", "3", "6", "7"]
    assert all(isinstance(fused.get_submodule(name), PooledConvolution) for name in ("0", "3"))


@pytest.mark.parametrize("padding", [0, 1, 2])
def test_gradients_of_a_block_are_torch_s(padding: int) -> None:
    """Of weights, bias and input, with zeros around it or without; equal outputs have one winner."""
    generator = torch.Generator().manual_seed(0)
    layers = nn.Sequential(nn.Conv2d(4, 3, 3, padding=padding), nn.ReLU(), nn.MaxPool2d(2))
    for parameter in layers.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator)
    fused = fuse_blocks(layers)
    assert fused is not None
    x = torch.randn(2, 4, 7, 9, generator=generator)
    x[0, :, 2:] = 0  # Where all four places of a pool are equal.
    found = []
    for model in (layers, fused):
        values = x.clone().requires_grad_()
        out = model(values)
        weights = torch.arange(out.numel()).view(out.shape) / out.numel()
        (out * weights).sum().backward()
        found.append([out, values.grad, *(p.grad.clone() for p in model.parameters())])
        model.zero_grad()
    for expected, mine in zip(*found, strict=True):
        torch.testing.assert_close(mine, expected, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize(
    "layers",
    [
        (nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AvgPool2d(2)),
        (nn.Conv2d(1, 4, 3), nn.ReLU(), nn.MaxPool2d(3)),
        (nn.Conv2d(1, 4, 3), nn.ReLU(), nn.MaxPool2d(2, ceil_mode=True)),
        (nn.Conv2d(1, 4, 3), nn.Tanh(), nn.MaxPool2d(2)),
        (nn.Conv2d(1, 4, 5), nn.ReLU(), nn.MaxPool2d(2)),
        (nn.Conv2d(1, 4, 3, stride=2), nn.ReLU(), nn.MaxPool2d(2)),
        (nn.Conv2d(1, 4, 3, padding=1, padding_mode="circular"), nn.ReLU(), nn.MaxPool2d(2)),
    ],
    ids=["average", "pool of 3", "ceiling", "tanh", "5 x 5", "stride", "circular"],
)
def test_what_is_no_block_is_left_to_others(layers: tuple[nn.Module, ...]) -> None:
    """A block that computes something else would train another model."""
    assert fuse_blocks(nn.Sequential(*layers)) is None
