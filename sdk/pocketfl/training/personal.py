"""Personalisation: a plan's model trained on the device's own examples, without any server."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from types import TracebackType
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from pocketfl.balancing.correction import correct_outputs
from pocketfl.balancing.selection import apply_balancing, candidates
from pocketfl.errors import StoreError, TrainingError
from pocketfl.features.loading import load_arrays, load_inputs
from pocketfl.features.pipeline import FeaturePipeline
from pocketfl.plan.archive import Plan
from pocketfl.runtimes import open_runtime
from pocketfl.runtimes.interface import FloatVector
from pocketfl.store.examples import ExampleStore
from pocketfl.store.revocation import derived_state
from pocketfl.store.selection import permutation
from pocketfl.training.loop import (
    HOLD_OUT_STREAM,
    Arrays,
    LocalResult,
    TrainingState,
    count_rows,
    train_locally,
)

_MAGIC: Final = b"PFL personal 1\n"


@dataclass(frozen=True, kw_only=True)
class TrainingResult:
    """What :meth:`LocalTrainer.train` did.

    Attributes
    ----------
    training : LocalResult
        Steps, losses and time.
    holdout_examples : int
        Examples set aside.
    holdout_loss_before, holdout_loss_after : float or None
        Mean loss on them before and after training; None when none were set aside.
    """

    training: LocalResult
    holdout_examples: int = 0
    holdout_loss_before: float | None = None
    holdout_loss_after: float | None = None


@dataclass(frozen=True, kw_only=True)
class LocalEvaluation:
    """What :meth:`LocalTrainer.evaluate` found.

    Attributes
    ----------
    loss : float
        Mean over the examples.
    examples : int
        How many there were.
    outputs : dict of str to ndarray
        The model's outputs by name, one row per example; corrected where the plan balances classes.
    target : ndarray
        What they should have been, in the same order.
    """

    loss: float
    examples: int
    outputs: dict[str, NDArray[np.generic]]
    target: NDArray[np.generic]


class LocalTrainer:
    """Trains a plan's model on this device's own examples; nothing leaves the device.

    Parameters
    ----------
    plan : Plan
        A verified plan: its model, features and training settings are used.
    store : ExampleStore
        Holds the plan's collection.
    runtime : {"onnxruntime", "executorch"}
        Which mobile runtime to use.
    parameters : ndarray of float32, shape (P,), optional
        Where to start, such as the latest global model; the plan's initial ones by default.

    Raises
    ------
    RuntimeUnavailableError
        If the runtime is not installed, or the plan has no parts for it.
    FeatureError
        If the plan's features do not make what its model takes.
    ValueError
        If the parameters have the wrong length or are not finite.
    """

    def __init__(
        self,
        plan: Plan,
        store: ExampleStore,
        *,
        runtime: str = "onnxruntime",
        parameters: FloatVector | None = None,
    ) -> None:
        self.plan: Final = plan
        self._store = store
        self._pipeline = FeaturePipeline(plan.manifest.features, model=plan.manifest.model)
        label = plan.manifest.features.label
        self._balancing = None if label is None else label.balancing
        self._runtime = open_runtime(plan, runtime)
        if parameters is not None:
            try:
                self._runtime.set_parameters(parameters)
            except ValueError:
                self._runtime.close()
                raise

    @property
    def parameters(self) -> FloatVector:
        """The current parameters, shape (P,), as a copy; assigning replaces them."""
        return self._runtime.parameters()

    @parameters.setter
    def parameters(self, vector: FloatVector) -> None:
        self._runtime.set_parameters(vector)

    def train(
        self,
        *,
        epochs: int | None = None,
        learning_rate: float | None = None,
        max_examples: int | None = None,
        holdout: float = 0.0,
        seed: int = 0,
        should_stop: Callable[[], bool] | None = None,
        after_batch: Callable[[Callable[[], TrainingState]], None] | None = None,
    ) -> TrainingResult:
        """Train on the store's examples.

        Parameters
        ----------
        epochs, learning_rate, max_examples : optional
            In place of the plan's.
        holdout : float
            Fraction of the examples to set aside, to measure the loss before and after; below 1.
        seed : int
            Decides which examples are taken, which are set aside, and the order of the others.
        should_stop : callable, optional
            Asked before every batch.
        after_batch : callable, optional
            Called after every batch, for a progress bar; see :func:`train_locally`.

        Returns
        -------
        TrainingResult
            Counts, losses and time.

        Raises
        ------
        StoreError
            If the collection does not exist.
        FeatureError
            If it does not hold what the plan reads.
        TrainingError
            If there is nothing to train on, or training diverged; the parameters are then as before.
        ValueError
            If a setting is out of its bounds.
        """
        if not 0 <= holdout < 1:
            raise ValueError(f"holdout must be at least 0 and below 1, not {holdout}")
        changes = {
            "epochs": epochs,
            "learning_rate": learning_rate,
            "max_examples": max_examples,
        }
        spec = dataclasses.replace(
            self.plan.manifest.required_training,
            **{name: value for name, value in changes.items() if value is not None},  # type: ignore[arg-type]
        )
        limit = candidates(self._balancing, limit=spec.max_examples)
        collection = self.plan.manifest.features.collection
        arrays = self._load(limit=limit, seed=seed, collection=collection)
        arrays, held_out = _split(arrays, holdout=holdout, seed=seed)
        # What is held out stays as it is in life.
        arrays = apply_balancing(arrays, self._balancing, limit=spec.max_examples, seed=seed)
        if count_rows(arrays) == 0:
            raise TrainingError(
                "balancing kept none of the examples: there are too few of the rarer classes"
            )
        before = self._runtime.parameters()
        loss_before = self._mean_loss(held_out)
        result = train_locally(
            self._runtime,
            arrays,
            spec,
            batch_size=self.plan.manifest.required_model.batch_size,
            seed=seed,
            should_stop=should_stop,
            after_batch=after_batch,
        )
        # An overflow may leave finite parameters: a gradient of infinite norm is clipped to zero.
        usable = all(map(math.isfinite, result.losses))
        if not (usable and np.isfinite(self._runtime.parameters()).all()):
            self._runtime.set_parameters(before)
            raise TrainingError(
                f"training diverged after {result.steps} steps at learning rate "
                f"{spec.learning_rate:g}; the parameters are as before: try a smaller one"
            )
        return TrainingResult(
            training=result,
            holdout_examples=count_rows(held_out) if held_out else 0,
            holdout_loss_before=loss_before,
            holdout_loss_after=self._mean_loss(held_out),
        )

    def evaluate(
        self, *, collection: str | None = None, max_examples: int | None = None, seed: int = 0
    ) -> LocalEvaluation:
        """Measure the current parameters on the store's examples.

        Parameters
        ----------
        collection : str, optional
            Another collection with the plan's fields, such as one of examples that are never trained
            on; the plan's own by default.
        max_examples : int, optional
            Most examples to use; all by default.
        seed : int
            Decides which, when there are more.

        Returns
        -------
        LocalEvaluation
            Mean loss, and outputs with targets for any other measure.

        Raises
        ------
        StoreError
            If the collection does not exist.
        FeatureError
            If it does not hold what the plan reads.
        TrainingError
            If it has no usable example.
        """
        if collection is None:
            collection = self.plan.manifest.features.collection
        if max_examples is None:
            max_examples = self._store.count(collection)
        return self._evaluate(self._load(limit=max_examples, seed=seed, collection=collection))

    def predict(
        self,
        examples: Mapping[str, object] | Sequence[Mapping[str, object]],
        *,
        times: Sequence[float] | None = None,
    ) -> dict[str, NDArray[np.generic]]:
        """Run the model with the current parameters.

        Parameters
        ----------
        examples : mapping, or sequence of mapping
            One or more examples as the app writes them, without the label.
        times : sequence of float, optional
            Unix time of each in seconds, for the join with server-side features; now by default.

        Returns
        -------
        dict of str to ndarray
            Outputs by name, one row per example; for a single mapping the row itself. Where the plan
            balances classes, its output is corrected to the classes' shares in life.

        Raises
        ------
        FeatureError
            Naming field and row.
        """
        rows = [examples] if isinstance(examples, Mapping) else list(examples)
        if times is None:
            times = [time.time()] * len(rows)
        if len(times) != len(rows):
            raise ValueError(f"{len(rows)} examples, but {len(times)} times")
        inputs = load_inputs(self._store, self._pipeline, rows, times=times)
        outputs = correct_outputs(self._runtime.predict(inputs), self._balancing)
        if isinstance(examples, Mapping):
            return {name: values[0] for name, values in outputs.items()}
        return outputs

    def save(self) -> None:
        """Keep the current parameters in the store, for this plan alone."""
        vector = self._runtime.parameters().astype("<f4", copy=False).tobytes()
        digest = bytes.fromhex(self.plan.sha256)
        self._store.database.write_state(
            self._state_name, _MAGIC + digest + sha256(digest + vector).digest() + vector
        )

    def restore(self) -> bool:
        """Go on from the parameters that :meth:`save` kept.

        Returns
        -------
        bool
            False when none were kept for exactly this plan; the parameters stay as they are.

        Raises
        ------
        StoreError
            If what was kept is damaged.
        """
        value = self._store.database.read_state(self._state_name)
        if value is None:
            return False
        damaged = StoreError(
            f"the personal parameters of plan {self.plan.manifest.name!r} are damaged: train again "
            "and save() to replace them"
        )
        start = len(_MAGIC)
        if not value.startswith(_MAGIC) or len(value) < start + 64:
            raise damaged
        digest, check, vector = (
            value[start : start + 32],
            value[start + 32 : start + 64],
            value[start + 64 :],
        )
        if sha256(digest + vector).digest() != check:
            raise damaged
        if digest.hex() != self.plan.sha256:
            # Another version of the plan: its parameters may mean something else.
            return False
        try:
            self._runtime.set_parameters(np.frombuffer(vector, "<f4").astype(np.float32))
        except ValueError as error:
            raise damaged from error
        return True

    def close(self) -> None:
        """Free the runtime; the store stays open."""
        self._runtime.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def _state_name(self) -> str:
        manifest = self.plan.manifest
        # Named after the collection, so that revoking that erases it.
        name = f"personal_parameters/{manifest.name}"
        return derived_state(manifest.features.collection, name)

    def _load(self, *, limit: int, seed: int, collection: str) -> dict[str, NDArray[np.generic]]:
        arrays = load_arrays(
            self._store, self._pipeline, limit=limit, seed=seed, collection=collection
        )
        if count_rows(arrays) == 0:
            features = self.plan.manifest.features
            count = self._store.count(collection)
            needed = "a label" if features.label is None else f"the label {features.label.field!r}"
            if features.server_table is not None and features.server_table.required:
                needed += f" and a row of server table {features.server_table.name!r}"
            raise TrainingError(
                f"collection {collection!r} is empty: append() examples first"
                if count == 0
                else f"none of the {min(count, limit)} examples taken of collection "
                f"{collection!r} has {needed}"
            )
        return arrays

    def _evaluate(self, arrays: Arrays) -> LocalEvaluation:
        rows = count_rows(arrays)
        size = self.plan.manifest.required_model.batch_size
        total = 0.0
        parts: list[dict[str, NDArray[np.generic]]] = []
        for start in range(0, rows, size):
            batch = {name: array[start : start + size] for name, array in arrays.items()}
            result = self._runtime.evaluate(batch)
            total += result.loss * len(batch["target"])
            parts.append(correct_outputs(result.outputs, self._balancing))
        return LocalEvaluation(
            loss=total / rows,
            examples=rows,
            outputs={name: np.concatenate([part[name] for part in parts]) for name in parts[0]},
            target=arrays["target"],
        )

    def _mean_loss(self, arrays: Arrays) -> float | None:
        return self._evaluate(arrays).loss if arrays else None


def _split(
    arrays: dict[str, NDArray[Any]], *, holdout: float, seed: int
) -> tuple[dict[str, NDArray[Any]], dict[str, NDArray[Any]]]:
    """Return arrays to train on, and arrays set aside (empty when none are)."""
    if holdout == 0:
        return arrays, {}
    rows = count_rows(arrays)
    if rows < 2:
        raise TrainingError("one example cannot be split into training and holdout: use holdout=0")
    aside = min(max(1, round(rows * holdout)), rows - 1)
    order = permutation(rows, seed=(seed, HOLD_OUT_STREAM))
    # Rising, so that the order of the store is kept on both sides.
    held, kept = np.sort(order[:aside]), np.sort(order[aside:])
    return (
        {name: array[kept] for name, array in arrays.items()},
        {name: array[held] for name, array in arrays.items()},
    )
