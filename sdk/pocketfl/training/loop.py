"""The loop over batches: where it stands is a small value, so it can stop anywhere and go on later."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from pocketfl.errors import TrainingCancelledError
from pocketfl.plan.training import TrainingSpec
from pocketfl.runtimes.batches import WEIGHT
from pocketfl.runtimes.interface import Runtime
from pocketfl.store.selection import permutation, uniform_numbers

Arrays: TypeAlias = Mapping[str, NDArray[np.generic]]
"""Inputs and ``target`` by name, all with the same number of rows."""

# One seed serves several choices; each has its own stream.
SHUFFLE_STREAM: Final = 0
HOLD_OUT_STREAM: Final = 1
DROPOUT_STREAM: Final = 2


@dataclass(frozen=True, kw_only=True)
class TrainingState:
    """Where training stands between two batches.

    With the parameters and the optimizer's state it is all that is needed to go on. The place follows
    from the number of batches, and the order of every epoch and the masks of dropout from the seed:
    there is no cursor or generator that could disagree with them.

    Attributes
    ----------
    losses : tuple of float
        Loss of each batch trained so far, before its step.
    step_seconds : float
        Wall time inside the runtime's training steps so far, in seconds.
    """

    losses: tuple[float, ...] = ()
    step_seconds: float = 0.0

    @property
    def steps(self) -> int:
        """Batches trained so far."""
        return len(self.losses)


@dataclass(frozen=True, kw_only=True)
class LocalResult:
    """What local training did, an earlier part that it went on from included.

    Attributes
    ----------
    steps : int
        Batches trained.
    examples : int
        Different examples that at least one step used.
    mean_loss : float
        Mean over all examples of all steps, each before its step; NaN without a step.
    step_seconds : float
        Wall time inside the runtime's training steps alone, in seconds.
    losses : tuple of float
        Loss of each batch before its step.
    completed : bool
        False when ``should_stop`` ended it early.
    """

    steps: int
    examples: int
    mean_loss: float
    step_seconds: float
    losses: tuple[float, ...]
    completed: bool

    @property
    def state(self) -> TrainingState:
        """Where it ended, to go on from."""
        return TrainingState(losses=self.losses, step_seconds=self.step_seconds)


def train_locally(
    runtime: Runtime,
    arrays: Arrays,
    spec: TrainingSpec,
    *,
    batch_size: int,
    seed: int,
    should_stop: Callable[[], bool] | None = None,
    resume: TrainingState | None = None,
    after_batch: Callable[[Callable[[], TrainingState]], None] | None = None,
) -> LocalResult:
    """Train a runtime's parameters on some examples.

    Every epoch has an order of its own that depends on the seed alone; its last batch may be short.
    Training that stops and goes on with the same arguments and the parameters and optimizer state of
    that moment ends with the same bits as training that was never interrupted.

    Parameters
    ----------
    runtime : Runtime
        Starts from its current parameters and keeps the new ones.
    arrays : mapping of str to ndarray
        Inputs and ``target``, all with the same number of rows; optionally ``weight`` (float32), which
        the loss of each example is multiplied by.
    spec : TrainingSpec
        Epochs, learning rate and gradient bound.
    batch_size : int
        Rows of a batch, at most the plan's; exactly the plan's for a model with dropout.
    seed : int
        Decides the order of the examples and the masks of dropout; not negative.
    should_stop : callable, optional
        Asked before every batch; training ends there once it says True.
    resume : TrainingState, optional
        Go on from here; the runtime holds the parameters and the optimizer state of that moment.
    after_batch : callable, optional
        Called after every batch with a callable that returns the state; calling that costs time in
        proportion to the batches so far, so it is done now and then only.

    Returns
    -------
    LocalResult
        Counts, losses and time.

    Raises
    ------
    ValueError
        If there are no rows, arrays differ in their number, or the state to go on from is beyond the
        end of this training.
    """
    rows = count_rows(arrays)
    if rows == 0:
        raise ValueError("there are no examples to train on")
    batches = math.ceil(rows / batch_size)
    begun = resume if resume is not None else TrainingState()
    if begun.steps > spec.epochs * batches:
        raise ValueError(
            f"the state to go on from has {begun.steps} batches, this training has "
            f"{spec.epochs * batches}"
        )
    losses = list(begun.losses)
    seconds = begun.step_seconds
    if begun.steps == 0:
        runtime.start_training()

    def state() -> TrainingState:
        return TrainingState(losses=tuple(losses), step_seconds=seconds)

    def result(*, completed: bool) -> LocalResult:
        return _result(losses, seconds, rows=rows, batch_size=batch_size, completed=completed)

    first_epoch, first_batch = divmod(begun.steps, batches)
    for epoch in range(first_epoch, spec.epochs):
        order = permutation(rows, seed=(seed, SHUFFLE_STREAM, epoch))
        shuffled = {name: array[order] for name, array in arrays.items()}
        for number in range(first_batch if epoch == first_epoch else 0, batches):
            if should_stop is not None and should_stop():
                return result(completed=False)
            start = number * batch_size
            batch = {name: array[start : start + batch_size] for name, array in shuffled.items()}
            if runtime.random_numbers:
                batch["random"] = uniform_numbers(
                    (batch_size, runtime.random_numbers), seed=(seed, DROPOUT_STREAM, len(losses))
                )
            began = time.perf_counter()
            try:
                step = runtime.train_step(
                    batch,
                    learning_rate=spec.learning_rate * mean_weight(batch),
                    clip_norm=spec.max_gradient_norm,
                )
            except TrainingCancelledError:
                # The parameters are those after the batch before.
                return result(completed=False)
            seconds += time.perf_counter() - began
            losses.append(step.loss)
            if after_batch is not None:
                after_batch(state)
    return result(completed=True)


def mean_weight(batch: Arrays) -> float:
    """Return what a step counts: the graph's loss is a weighted mean, in which weights cancel.

    With the learning rate scaled by it, a batch of common examples moves the model less than one of
    rare examples, as the weights ask for, and not only within each batch.
    """
    return float(batch[WEIGHT].astype(np.float64).mean()) if WEIGHT in batch else 1.0


def _result(
    losses: Sequence[float], seconds: float, *, rows: int, batch_size: int, completed: bool
) -> LocalResult:
    sizes = [min(batch_size, rows - start) for start in range(0, rows, batch_size)]
    total = 0.0
    used = 0
    for place, loss in enumerate(losses):
        size = sizes[place % len(sizes)]
        total += loss * size
        used += size
    return LocalResult(
        steps=len(losses),
        examples=min(used, rows),
        mean_loss=total / used if used else math.nan,
        step_seconds=seconds,
        losses=tuple(losses),
        completed=completed,
    )


def count_rows(arrays: Arrays) -> int:
    """Return the number of rows that all arrays have.

    Raises
    ------
    ValueError
        If they differ in it.
    """
    counts = {name: len(array) for name, array in arrays.items()}
    if len(set(counts.values())) != 1:
        raise ValueError(f"the arrays differ in their number of rows: {counts}")
    return next(iter(counts.values()))
