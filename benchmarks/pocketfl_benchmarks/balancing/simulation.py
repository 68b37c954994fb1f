"""The demo's private rounds, with all devices of a round trained side by side in one array.

The same plan as the demo's: model, local steps, clipping, coin, noise and server optimizer. What
differs is the arithmetic's order and its generator: batched matrices instead of a mobile runtime, and
pseudo-random noise instead of the trusted tier's. ``tests/benchmarks/balancing`` compares a local step
with torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from pocketfl.balancing import Balancing
from pocketfl.balancing.selection import apply_balancing, candidates
from pocketfl.store.selection import choose, permutation
from pocketfl_benchmarks.flights.task import (
    BATCH_SIZE,
    CLIP_NORM,
    HIDDEN_UNITS,
    OPTIMIZER,
    TRAINING,
)
from pocketfl_server.optimizers import OptimizerState, apply_update

Floats = NDArray[np.float32]

_SHUFFLE: Final = 1


@dataclass(frozen=True)
class DeviceFlights:
    """One device's flights as the model sees them.

    Attributes
    ----------
    features : ndarray of float32, shape (n, width)
        Inputs.
    target : ndarray of float32, shape (n,)
        1 for a late arrival.
    """

    features: Floats
    target: Floats


@dataclass(frozen=True, kw_only=True)
class Rounds:
    """How a model is trained.

    Attributes
    ----------
    count : int
        Number of rounds.
    sampling_probability : float
        Of each device's coin.
    noise_multiplier : float
        Of each round's noise, over the clip norm.
    """

    count: int
    sampling_probability: float
    noise_multiplier: float


class Network:
    """One hidden layer for many devices at once; parameters are flat, in the plan's order.

    Parameters
    ----------
    width : int
        Number of inputs.
    """

    def __init__(self, width: int) -> None:
        self.width: Final = width
        self.sizes: Final = (HIDDEN_UNITS * width, HIDDEN_UNITS, HIDDEN_UNITS, 1)

    def initial(self, *, seed: int, bias: float) -> Floats:
        """Return fresh parameters whose output starts at ``bias``."""
        torch.manual_seed(seed)
        hidden = torch.nn.Linear(self.width, HIDDEN_UNITS)
        output = torch.nn.Linear(HIDDEN_UNITS, 1)
        parts = [hidden.weight.detach().numpy().ravel(), np.zeros(HIDDEN_UNITS)]
        parts += [output.weight.detach().numpy().ravel(), np.array([bias])]
        return np.concatenate(parts).astype(np.float32)

    def _split(self, flat: torch.Tensor) -> tuple[torch.Tensor, ...]:
        first, second, third, last = torch.split(flat, list(self.sizes), dim=-1)
        return first.reshape(*flat.shape[:-1], HIDDEN_UNITS, self.width), second, third, last

    def logits(self, flat: Floats, features: Floats) -> Floats:
        """Return one model's logits, shape (n,)."""
        weight, bias, out, last = self._split(torch.from_numpy(flat))
        hidden = torch.relu(torch.from_numpy(features) @ weight.T + bias)
        made: Floats = (hidden @ out + last).numpy()
        return made

    def step(
        self, flat: torch.Tensor, features: torch.Tensor, target: torch.Tensor, weight: torch.Tensor
    ) -> torch.Tensor:
        """Take one step of every device; shapes (k, P), (k, b, width), (k, b), (k, b).

        The loss is the mean over the batch of ``weight`` times the logistic loss; padding has weight
        0 and does not count as a row of the batch.
        """
        matrix, bias, out, last = self._split(flat)
        before = torch.bmm(features, matrix.transpose(1, 2)) + bias[:, None, :]
        hidden = torch.relu(before)
        logit = torch.bmm(hidden, out[:, :, None])[:, :, 0] + last
        rows = (weight > 0).sum(dim=1, keepdim=True).clamp_min(1)
        error = (torch.sigmoid(logit) - target) * weight / rows
        inner = error[:, :, None] * out[:, None, :] * (before > 0)
        gradient = torch.cat(
            [
                torch.bmm(inner.transpose(1, 2), features).flatten(1),
                inner.sum(dim=1),
                torch.bmm(error[:, None, :], hidden)[:, 0],
                error.sum(dim=1, keepdim=True),
            ],
            dim=1,
        )
        return flat - TRAINING.learning_rate * gradient


def train_privately(
    devices: Sequence[DeviceFlights],
    *,
    rounds: Rounds,
    balancing: Balancing | None,
    bias: float,
    seed: int,
) -> Floats:
    """Train a model as the demo's private arm does.

    Parameters
    ----------
    devices : sequence of DeviceFlights
        The whole fleet.
    rounds : Rounds
        Number, coin and noise.
    balancing : Balancing or None
        The plan's policy.
    bias : float
        Where the output starts.
    seed : int
        Of everything random.

    Returns
    -------
    ndarray of float32, shape (P,)
        The last round's model.
    """
    torch.set_num_threads(1)
    generator = np.random.default_rng(seed)
    network = Network(devices[0].features.shape[1])
    parameters = network.initial(seed=seed, bias=bias)
    state = OptimizerState()
    expected = rounds.sampling_probability * len(devices)
    for number in range(rounds.count):
        heads = np.flatnonzero(generator.random(len(devices)) < rounds.sampling_probability)
        batches = _batches(
            [devices[place] for place in heads.tolist()], balancing, seed=(seed << 16) + number
        )
        flat = torch.from_numpy(parameters).repeat(len(heads), 1)
        for features, target, weight in batches:
            flat = network.step(flat, features, target, weight)
        update = flat.numpy().astype(np.float64) - parameters
        norms = np.linalg.norm(update, axis=1, keepdims=True)
        total = (update * np.minimum(1, CLIP_NORM / np.maximum(norms, 1e-12))).sum(axis=0)
        total += generator.normal(0, rounds.noise_multiplier * CLIP_NORM, len(parameters))
        parameters, state = apply_update(OPTIMIZER, parameters, state, total / expected)
    return parameters


def _batches(
    devices: Sequence[DeviceFlights], balancing: Balancing | None, *, seed: int
) -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Return every step's batch of every device; devices with fewer rows have weight 0."""
    chosen = [_select(d, balancing, seed=seed * 8192 + n) for n, d in enumerate(devices)]
    longest = max(len(rows) for _, rows, _ in chosen)
    steps = -(-longest // BATCH_SIZE)
    count, width = len(devices), devices[0].features.shape[1]
    features = np.zeros((count, steps * BATCH_SIZE, width), np.float32)
    target = np.zeros((count, steps * BATCH_SIZE), np.float32)
    weight = np.zeros((count, steps * BATCH_SIZE), np.float32)
    for place, (device, rows, weights) in enumerate(chosen):
        features[place, : len(rows)] = device.features[rows]
        target[place, : len(rows)] = device.target[rows]
        weight[place, : len(rows)] = weights
    cuts = [slice(s * BATCH_SIZE, (s + 1) * BATCH_SIZE) for s in range(steps)]
    return [
        tuple(torch.from_numpy(array[:, cut]) for array in (features, target, weight))  # type: ignore[misc]
        for cut in cuts
    ]


def _select(
    device: DeviceFlights, balancing: Balancing | None, *, seed: int
) -> tuple[DeviceFlights, NDArray[np.int64], Floats]:
    """Choose, balance and shuffle rows with the SDK's own functions."""
    limit = TRAINING.max_examples
    rows = choose(
        len(device.target), limit=candidates(balancing, limit=limit), seed=(seed, _SHUFFLE)
    )
    kept = apply_balancing(
        {"rows": rows, "target": device.target[rows]}, balancing, limit=limit, seed=seed
    )
    order = permutation(len(kept["rows"]), seed=(seed, _SHUFFLE, 0))
    weights = kept.get("weight", np.ones(len(order), np.float32))
    return device, kept["rows"][order], weights[order]
