"""The plan's optimizer on real runtimes: torch's steps, reset per training, resumed bit for bit."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from pocketfl.plan import LocalOptimizerSpec, TrainingSpec
from pocketfl.runtimes import open_runtime
from pocketfl.runtimes.optimizers import OptimizerState, bias_correction
from pocketfl.training import Checkpoint, train_locally
from pocketfl_export.backends import BACK_ENDS
from pocketfl_export.gate import CandidatePlan
from pocketfl_export.problem import make_problem

ROWS, BATCH = 21, 6
RNG = np.random.default_rng(0)
ARRAYS = {
    "x": RNG.standard_normal((ROWS, 5)).astype(np.float32),
    "target": RNG.integers(0, 3, ROWS),
}
OPTIMIZERS = {
    "momentum": LocalOptimizerSpec(momentum=0.9, weight_decay=0.01),
    "adam": LocalOptimizerSpec(kind="adam", weight_decay=0.01),
    "adamw": LocalOptimizerSpec(kind="adamw", weight_decay=0.1),
}


class Net(nn.Module):
    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(5, 4), nn.Tanh(), nn.Dropout(dropout), nn.Linear(4, 3)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


def candidate(
    optimizer: LocalOptimizerSpec, *, dropout: float = 0.0, runtime: str = "onnxruntime"
) -> tuple[CandidatePlan, nn.Module, TrainingSpec]:
    torch.manual_seed(0)
    model = Net(dropout)
    training = TrainingSpec(
        epochs=3, learning_rate=0.05, max_gradient_norm=1.0, optimizer=optimizer
    )
    inputs, target = torch.from_numpy(ARRAYS["x"][:BATCH]), torch.from_numpy(ARRAYS["target"])
    problem = make_problem(model, F.cross_entropy, inputs, target[:BATCH], training)
    back_end = BACK_ENDS[runtime]
    parts = {back_end.part_name(k): v for k, v in back_end.export_parts(problem).items()}
    return CandidatePlan(problem, back_end, parts), model, training


@pytest.mark.parametrize("runtime", ["onnxruntime", "executorch"])
def test_a_whole_training_with_adam_is_torchs(runtime: str) -> None:
    """Twelve steps in a row, the device's loop on one side and torch.optim on the other."""
    _compare("adam", runtime)


@pytest.mark.parametrize("name", ["momentum", "adamw"])
def test_a_whole_training_is_torchs(name: str) -> None:
    """Twelve steps in a row, the device's loop on one side and torch.optim on the other."""
    _compare(name, "onnxruntime")


def _compare(name: str, runtime_name: str) -> None:
    plan, model, training = candidate(OPTIMIZERS[name], runtime=runtime_name)
    spec, seen = training.minimizer, []

    def note(batch, **rates):
        seen.append({k: v.copy() for k, v in batch.items()})
        return step(batch, **rates)

    runtime = open_runtime(plan, runtime_name)
    step, runtime.train_step = runtime.train_step, note
    train_locally(runtime, ARRAYS, training, batch_size=BATCH, seed=1)
    kinds = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
    options = {"momentum": spec.momentum} if spec.kind == "sgd" else {}
    optimizer = kinds[spec.kind](
        model.parameters(), lr=0.05, weight_decay=spec.weight_decay, **options
    )
    for batch in seen:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(torch.from_numpy(batch["x"])), torch.tensor(batch["target"]))
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    expected = nn.utils.parameters_to_vector(model.parameters()).detach().numpy()
    assert len(seen) == 12
    np.testing.assert_allclose(runtime.parameters(), expected, atol=1e-5)


def test_fedprox_pulls_towards_the_start_of_this_training() -> None:
    """The anchor is where each training began, not where the runtime was opened."""
    plan, _, training = candidate(LocalOptimizerSpec(proximal=0.5))
    runtime = open_runtime(plan, "onnxruntime")
    start = runtime.parameters() + np.float32(0.25)
    runtime.set_parameters(start)
    train_locally(runtime, ARRAYS, training, batch_size=BATCH, seed=1)
    free_plan, _, free = candidate(LocalOptimizerSpec())
    unbound = open_runtime(free_plan, "onnxruntime")
    unbound.set_parameters(start)
    train_locally(unbound, ARRAYS, free, batch_size=BATCH, seed=1)
    pulled, moved = runtime.parameters() - start, unbound.parameters() - start
    assert 0 < np.linalg.norm(pulled) < np.linalg.norm(moved)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_training_begins_with_an_optimizer_that_knows_nothing(name: str) -> None:
    """A second round from the same parameters ends where the first did, to the bit."""
    plan, _, training = candidate(OPTIMIZERS[name])
    runtime, ends = open_runtime(plan, "onnxruntime"), []
    for _ in range(2):
        runtime.set_parameters(plan.initial_parameters())
        train_locally(runtime, ARRAYS, training, batch_size=BATCH, seed=1)
        ends.append(runtime.parameters().tobytes())
    assert ends[0] == ends[1]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_training_resumed_from_a_checkpoint_ends_with_the_same_bits(name: str) -> None:
    """Moments, velocity, step count and masks of dropout go on where a kill cut them off."""
    plan, _, training = candidate(replace(OPTIMIZERS[name], proximal=0.1), dropout=0.3)
    whole = open_runtime(plan, "onnxruntime")
    expected = train_locally(whole, ARRAYS, training, batch_size=BATCH, seed=2)
    part = open_runtime(plan, "onnxruntime")
    for steps in (1, 5, 11):
        part.set_parameters(plan.initial_parameters())
        answers = iter([False] * steps + [True])
        first = train_locally(
            part,
            ARRAYS,
            training,
            batch_size=BATCH,
            seed=2,
            should_stop=lambda: next(answers),  # noqa: B023
        )
        kept = Checkpoint(
            fingerprint="",
            state=first.state,
            parameters=part.parameters(),
            optimizer=part.optimizer_state(),
        )
        kept = Checkpoint.from_bytes(kept.to_bytes())
        rest = open_runtime(plan, "onnxruntime")
        rest.set_parameters(kept.parameters)
        rest.restore_optimizer(kept.optimizer, steps=kept.state.steps)
        second = train_locally(rest, ARRAYS, training, batch_size=BATCH, seed=2, resume=kept.state)
        assert rest.parameters().tobytes() == whole.parameters().tobytes()
        assert second.losses == expected.losses


def test_masks_depend_on_the_seed_and_on_nothing_else() -> None:
    """The same seed trains to the same bits, another seed does not."""
    plan, _, training = candidate(LocalOptimizerSpec(), dropout=0.5)
    ends = []
    for seed in (1, 1, 2):
        runtime = open_runtime(plan, "onnxruntime")
        train_locally(runtime, ARRAYS, training, batch_size=BATCH, seed=seed)
        ends.append(runtime.parameters().tobytes())
    assert ends[0] == ends[1] != ends[2]


def test_a_step_without_its_random_numbers_is_refused() -> None:
    """A model with dropout never trains with a mask that nobody chose."""
    plan, _, _ = candidate(LocalOptimizerSpec(), dropout=0.5)
    runtime = open_runtime(plan, "onnxruntime")
    batch = {name: value[:BATCH] for name, value in ARRAYS.items()}
    numbers = np.full((BATCH, 4), 0.5, np.float32)
    rates = {"learning_rate": 0.1, "clip_norm": 1.0}
    for wrong in ({}, {"random": numbers[:, :3]}, {"random": numbers + 1}):
        with pytest.raises(ValueError, match="random"):
            runtime.train_step({**batch, **wrong}, **rates)
    runtime.train_step({**batch, "random": numbers}, **rates)
    runtime.evaluate(batch)


def test_a_state_of_another_optimizer_is_refused() -> None:
    """A checkpoint's state fits exactly or not at all."""
    state = OptimizerState(OPTIMIZERS["adam"], 4)
    for vector in (np.zeros(4, np.float32), np.zeros(8), np.full(8, np.nan, np.float32)):
        with pytest.raises(ValueError, match="optimizer's state"):
            state.restore(vector, steps=1)


def test_bias_corrections_keep_their_digits() -> None:
    """Computed in single precision, the first would be off in the fifth digit."""
    for step in (1, 2, 10, 1000):
        first, second = bias_correction(OPTIMIZERS["adam"], step)
        assert first == pytest.approx(1 - 0.9**step, rel=1e-12)
        assert second == pytest.approx((1 - 0.999**step) ** 0.5, rel=1e-12)
