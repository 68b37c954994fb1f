"""From a device's examples to its steps: production's choice, balancing and order, laid end to end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pocketfl.balancing.selection import apply_balancing, candidates
from pocketfl.plan.manifest import Manifest
from pocketfl.runtimes.batches import TARGET, WEIGHT
from pocketfl.runtimes.interface import FloatVector
from pocketfl.runtimes.optimizers import bias_correction
from pocketfl.store.selection import choose, permutation, uniform_numbers
from pocketfl.training.loop import DROPOUT_STREAM, SHUFFLE_STREAM, mean_weight
from pocketfl_simulation.data import Arrays, FleetData, Holding


@dataclass(frozen=True, kw_only=True, eq=False)
class PackedSteps:
    """The S steps of D devices, one device after the other.

    A device takes as many steps as it has batches, so no device waits for one with more examples.

    Attributes
    ----------
    arrays : mapping of str to ndarray
        Inputs and ``target``, one row per example.
    rows : ndarray of int64, shape (S, B)
        Which rows each step takes; a short batch is filled up with its own first row.
    weight : ndarray of float32, shape (S, B)
        What each counts; 0 where a batch was filled up.
    learning_rate : ndarray of float32, shape (S,)
        Of each step.
    begins : ndarray of bool, shape (S,)
        Whether a step is its device's first.
    counts : ndarray of int64, shape (D,)
        Steps by device; 0 for one without usable examples.
    random : ndarray of float32, shape (S, B, R), or None
        For dropout.
    bias_correction : ndarray of float32, shape (S, 2), or None
        For optimizers of Adam's kind.
    """

    arrays: Arrays
    rows: NDArray[np.int64]
    weight: FloatVector
    learning_rate: FloatVector
    begins: NDArray[np.bool_]
    counts: NDArray[np.int64]
    random: FloatVector | None = None
    bias_correction: FloatVector | None = None


def pack(
    data: FleetData, devices: Sequence[int], *, seeds: Sequence[int], manifest: Manifest
) -> PackedSteps:
    """Lay out the local training of some devices as :func:`pocketfl.training.train_locally` does it.

    Parameters
    ----------
    data : FleetData
        Holds their examples.
    devices : sequence of int
        Which.
    seeds : sequence of int
        Of each; decides which examples train and in which order.
    manifest : Manifest
        Says how.

    Raises
    ------
    FeatureError
        If a target is none of the classes that the plan balances.
    """
    spec, model = manifest.required_training, manifest.required_model
    arrays, holdings = data.fetch(devices)
    size = model.batch_size
    counts = np.zeros(len(devices), dtype=np.int64)
    rows: list[NDArray[np.int64]] = []
    weights: list[FloatVector] = []
    random: list[FloatVector] = []
    rates: list[float] = []
    for number, (holding, seed) in enumerate(zip(holdings, seeds, strict=True)):
        own, importance = choose_rows(arrays, holding, manifest=manifest, seed=seed)
        if len(own) == 0:
            continue
        batches = -(-len(own) // size)
        counts[number] = batches * spec.epochs
        for epoch in range(spec.epochs):
            order = permutation(len(own), seed=(seed, SHUFFLE_STREAM, epoch))
            rows.append(_fill(own[order], batches, size))
            weights.append(_weigh(importance, order, batches, size))
            rates += _rates(spec.learning_rate, importance, order, batches, size)
        if model.random_numbers:
            random += [
                uniform_numbers(
                    (size, model.random_numbers), seed=(seed, DROPOUT_STREAM, int(step))
                )
                for step in range(counts[number])
            ]
    begins = np.zeros(int(counts.sum()), dtype=np.bool_)
    begins[(np.cumsum(counts) - counts)[counts > 0]] = True
    correction = None
    if spec.minimizer.is_adaptive:
        of_step = [
            bias_correction(spec.minimizer, step + 1) for step in range(counts.max(initial=0))
        ]
        table = np.array(of_step, dtype=np.float32).reshape(-1, 2)
        correction = table[np.concatenate([np.arange(0), *map(np.arange, counts)])]
    return PackedSteps(
        arrays=arrays,
        rows=np.concatenate(rows) if rows else np.zeros((0, size), np.int64),
        weight=np.concatenate(weights) if weights else np.zeros((0, size), np.float32),
        learning_rate=np.array(rates, dtype=np.float32),
        begins=begins,
        counts=counts,
        random=np.stack(random) if random else None,
        bias_correction=correction,
    )


def choose_rows(
    arrays: Arrays, holding: Holding, *, manifest: Manifest, seed: int
) -> tuple[NDArray[np.int64], FloatVector | None]:
    """Return the rows that a device trains on, and what each counts where the plan weighs classes.

    As :func:`pocketfl.features.loading.load_training_arrays` chooses among what a store holds.
    """
    label = manifest.features.label
    balancing = None if label is None else label.balancing
    limit = manifest.required_training.max_examples
    chosen = choose(holding.stored, limit=candidates(balancing, limit=limit), seed=seed)
    if holding.places is not None:
        chosen = np.flatnonzero(np.isin(holding.places, chosen))
    rows = holding.rows.start + chosen
    kept = apply_balancing(
        {"row": rows, TARGET: arrays[TARGET][rows]}, balancing, limit=limit, seed=seed
    )
    return kept["row"], kept.get(WEIGHT)


def _fill(rows: NDArray[np.int64], batches: int, size: int) -> NDArray[np.int64]:
    filled = np.repeat(rows[::size, None], size, axis=1)
    filled.reshape(-1)[: len(rows)] = rows
    return filled


def _weigh(
    importance: FloatVector | None, order: NDArray[np.int64], batches: int, size: int
) -> FloatVector:
    weight = np.zeros(batches * size, dtype=np.float32)
    weight[: len(order)] = 1.0 if importance is None else importance[order]
    return weight.reshape(batches, size)


def _rates(
    rate: float, importance: FloatVector | None, order: NDArray[np.int64], batches: int, size: int
) -> list[float]:
    if importance is None:
        return [rate] * batches
    shuffled = importance[order]
    return [
        rate * mean_weight({WEIGHT: shuffled[start : start + size]})
        for start in range(0, len(order), size)
    ]
