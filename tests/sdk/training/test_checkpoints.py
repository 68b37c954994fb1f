"""Checkpoints: what comes back, when they are written, and which training they belong to."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pocketfl.errors import DecodeError
from pocketfl.plan import TrainingSpec
from pocketfl.runtimes import StepResult
from pocketfl.training import (
    Checkpoint,
    Checkpointer,
    CheckpointPolicy,
    TrainingState,
    fingerprint,
    train_locally,
)

SPEC = TrainingSpec(epochs=3, learning_rate=0.1, max_gradient_norm=100.0)
ARRAYS = {
    "x": np.random.default_rng(0).normal(size=(13, 2)).astype(np.float32),
    "target": np.arange(13, dtype=np.float32),
}
STEPS = 3 * 4

finite = st.floats(allow_nan=False, allow_infinity=False)
checkpoints = st.builds(
    Checkpoint,
    fingerprint=st.text("0123456789abcdef", min_size=64, max_size=64),
    state=st.builds(
        TrainingState,
        losses=st.lists(finite, max_size=20).map(tuple),
        step_seconds=st.floats(0, 1e9),
    ),
    parameters=hnp.arrays(
        np.float32,
        st.integers(0, 50),
        elements=st.floats(width=32, allow_nan=False, allow_infinity=False),
    ),
    optimizer=hnp.arrays(
        np.float32,
        st.integers(0, 50),
        elements=st.floats(width=32, allow_nan=False, allow_infinity=False),
    ),
    spent=st.dictionaries(st.text(max_size=10), finite, max_size=4),
)


class Line:
    """Least squares in float32 with what the loop uses of a runtime; may overflow."""

    name = "line"
    random_numbers = 0

    def __init__(self, start=(0.0, 0.0)) -> None:
        self.vector = np.array(start, np.float32)

    def parameters(self):
        return self.vector.copy()

    def start_training(self):
        pass

    def train_step(self, batch, *, learning_rate, clip_norm):
        with np.errstate(all="ignore"):
            difference = batch["x"] @ self.vector - batch["target"]
            gradient = 2 * batch["x"].T @ difference / np.float32(len(difference))
            self.vector = (self.vector - np.float32(learning_rate) * gradient).astype(np.float32)
            norm = float(np.linalg.norm(gradient))
        return StepResult(loss=float(np.mean(difference**2)), gradient_norm=norm)


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def same(one: Checkpoint, other: Checkpoint) -> bool:
    return all(
        (c.fingerprint, c.state, c.spent, c.parameters.tobytes(), c.optimizer.tobytes())
        == (
            one.fingerprint,
            one.state,
            one.spent,
            one.parameters.tobytes(),
            one.optimizer.tobytes(),
        )
        for c in (one, other)
    )


@given(checkpoint=checkpoints)
def test_a_checkpoint_survives_encoding(checkpoint) -> None:
    """Bit for bit, whatever it holds."""
    assert same(Checkpoint.from_bytes(checkpoint.to_bytes()), checkpoint)


@given(checkpoint=checkpoints, data=st.data())
def test_a_damaged_checkpoint_is_refused(checkpoint, data) -> None:
    """Any byte changed, cut off or added: a DecodeError, never other parameters."""
    content = bytearray(checkpoint.to_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    content[place] ^= data.draw(st.integers(1, 255))
    for damaged in (bytes(content), bytes(content[:place]), checkpoint.to_bytes() + b"\0"):
        with pytest.raises(DecodeError):
            Checkpoint.from_bytes(damaged)


@pytest.mark.parametrize("steps", range(STEPS + 1))
def test_training_that_goes_on_ends_with_the_same_bits(steps) -> None:
    """From every batch, the ends of epochs included: parameters, losses and mean are the same."""
    whole = Line()
    expected = train_locally(whole, ARRAYS, SPEC, batch_size=4, seed=3)
    assert expected.steps == STEPS
    part = Line()
    answers = iter([False] * steps + [True])
    first = train_locally(
        part, ARRAYS, SPEC, batch_size=4, seed=3, should_stop=lambda: next(answers, True)
    )
    assert first.completed == (steps == STEPS)
    kept = Checkpoint(fingerprint="", state=first.state, parameters=part.parameters())
    kept = Checkpoint.from_bytes(kept.to_bytes())
    rest = Line(kept.parameters)
    second = train_locally(rest, ARRAYS, SPEC, batch_size=4, seed=3, resume=kept.state)
    assert rest.vector.tobytes() == whole.vector.tobytes()
    assert second.losses == expected.losses
    assert (second.mean_loss, second.examples) == (expected.mean_loss, expected.examples)
    assert second.completed


def test_a_state_beyond_the_end_is_refused() -> None:
    """It belongs to another training."""
    beyond = TrainingState(losses=(0.0,) * (STEPS + 1))
    with pytest.raises(ValueError, match="13 batches, this training has 12"):
        train_locally(Line(), ARRAYS, SPEC, batch_size=4, seed=3, resume=beyond)


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 2},
        {"batch_size": 5},
        {"runtime": "other"},
        {"start": np.ones(2, np.float32)},
        {"spec": TrainingSpec(epochs=4)},
        {"arrays": {**ARRAYS, "x": ARRAYS["x"][::-1]}},
        {"arrays": {name: array[1:] for name, array in ARRAYS.items()}},
        {"arrays": {"y": ARRAYS["x"], "target": ARRAYS["target"]}},
    ],
)
def test_a_fingerprint_stands_for_all_that_decides_a_training(change) -> None:
    """Whatever changes, it changes; nothing changed, it does not."""
    settings = {
        "arrays": ARRAYS,
        "spec": SPEC,
        "seed": 1,
        "batch_size": 4,
        "runtime": "line",
        "start": np.zeros(2, np.float32),
    }

    def of(settings):
        rest = dict(settings)
        return fingerprint(rest.pop("arrays"), rest.pop("spec"), **rest)

    assert of(settings) == of(dict(settings)) != of({**settings, **change})


def train_with(policy, *, seconds_per_batch, runtime=None):
    clock, runtime, kept = Clock(), runtime or Line(), []
    checkpointer = Checkpointer(
        kept.append,
        fingerprint=lambda: "f",
        parameters=runtime.parameters,
        optimizer=lambda: np.zeros(0, np.float32),
        spent=lambda: {"seconds": clock.now},
        policy=policy,
        clock=clock,
    )

    def after_batch(state) -> None:
        clock.now += seconds_per_batch
        checkpointer.after_batch(state)

    train_locally(runtime, ARRAYS, SPEC, batch_size=4, seed=3, after_batch=after_batch)
    return kept, checkpointer


def test_checkpoints_come_at_a_bounded_rate() -> None:
    """At most one per second of training by default, none in a shorter one, with what was spent."""
    kept, _ = train_with(CheckpointPolicy(), seconds_per_batch=0.4)
    assert [checkpoint.state.steps for checkpoint in kept] == [3, 6, 9, 12]
    assert kept[1].spent == {"seconds": pytest.approx(2.4)}
    assert train_with(CheckpointPolicy(), seconds_per_batch=0.08)[0] == []


def test_large_checkpoints_come_further_apart() -> None:
    """Flash memory wears by the byte."""
    policy = CheckpointPolicy(every_seconds=1.0, bytes_per_second=20.0)
    kept, _ = train_with(policy, seconds_per_batch=1.0)
    steps = [checkpoint.state.steps for checkpoint in kept]
    assert steps[0] == 1
    for checkpoint, (now, later) in zip(kept, pairwise(steps), strict=False):
        assert later - now >= (8 + 8 * checkpoint.state.steps) / 20.0


def test_the_same_state_is_not_written_twice() -> None:
    """A stop right after a checkpoint has nothing to add."""
    kept, checkpointer = train_with(CheckpointPolicy(every_seconds=0.0), seconds_per_batch=1.0)
    assert len(kept) == STEPS
    checkpointer.save(kept[-1].state)
    assert len(kept) == STEPS


def test_diverged_parameters_are_not_written() -> None:
    """Nothing could go on from them; the training is repeated from earlier instead."""
    runtime = Line((np.inf, 0.0))
    assert (
        train_with(CheckpointPolicy(every_seconds=0.0), seconds_per_batch=1, runtime=runtime)[0]
        == []
    )


@pytest.mark.parametrize("settings", [{"every_seconds": -1.0}, {"bytes_per_second": 0.0}])
def test_impossible_policies_are_refused(settings) -> None:
    """Told at once, not at the first checkpoint."""
    with pytest.raises(ValueError, match=r"negative|above 0"):
        CheckpointPolicy(**settings)
