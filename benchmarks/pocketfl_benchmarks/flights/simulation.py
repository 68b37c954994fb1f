"""The demo's plan, simulated in one process: all devices of a cohort take their steps together.

Features, model, schedule, clipping, rounding, rotation and server optimizer are the real ones. Left out
are the three tiers with their network, sealing and stores. Coins, batches, rounding, noise are seeded,
which they never are in a fleet, so that two simulations differ in what is to be compared and in nothing
else; and noise is a rounded Gaussian instead of the trusted tier's discrete one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from pocketfl.clipping import clip_to_grid
from pocketfl.encoding import EncodingSpec, Rotation
from pocketfl.plan import AggregationSpec
from pocketfl.runtimes import FloatVector
from pocketfl_benchmarks.flights.baselines import pool_flights
from pocketfl_benchmarks.flights.data import FlightTable, is_held_out
from pocketfl_benchmarks.flights.task import (
    BATCH_SIZE,
    HIDDEN_UNITS,
    OPTIMIZER,
    TRAINING,
    LatenessModel,
    Schedule,
)
from pocketfl_server.optimizers import OptimizerState, apply_update

_AT_ONCE: Final = 128
"""Devices that take a step together."""


@dataclass(frozen=True)
class FleetFlights:
    """The flights of a fleet as its devices see them, and those that models are judged by.

    Attributes
    ----------
    features : ndarray of float32, shape (n, width)
        Of the training aircraft, one after the other.
    target : ndarray of float32, shape (n,)
        1 for a late arrival.
    spans : list of slice
        The rows of each aircraft.
    held_out_features, held_out_target
        Of the aircraft that take no part.
    """

    features: NDArray[np.float32]
    target: NDArray[np.float32]
    spans: list[slice]
    held_out_features: NDArray[np.float32]
    held_out_target: NDArray[np.float32]

    @classmethod
    def of(cls, table: FlightTable) -> FleetFlights:
        """Run all flights through the devices' feature pipeline; this takes half a minute."""
        training = [name for name in table.aircraft if not is_held_out(name)]
        pooled = pool_flights(table, training)
        held_out = pool_flights(table, [name for name in table.aircraft if is_held_out(name)])
        counts = [table.spans[name].stop - table.spans[name].start for name in training]
        ends = np.cumsum(counts).tolist()
        spans = [slice(end - count, end) for end, count in zip(ends, counts, strict=True)]
        return cls(pooled.features, pooled.target, spans, held_out.features, held_out.target)

    def auc(self, parameters: FloatVector) -> float:
        """Return the AUC of a model on the held-out aircraft."""
        model = LatenessModel()
        vector_to_parameters(torch.from_numpy(parameters), model.parameters())
        with torch.no_grad():
            scores = model(torch.from_numpy(self.held_out_features)).numpy()
        return float(roc_auc_score(self.held_out_target, scores))


@dataclass(frozen=True, kw_only=True)
class Lies:
    """Devices that send the largest update that the clip allows, in a direction that harms.

    Attributes
    ----------
    share : float
        Of all devices.
    kind : {"flipped", "opposed"}
        ``flipped`` turns what the device has learnt around; ``opposed`` turns around where the global
        model went in the last round, in which all that lie agree.
    """

    share: float
    kind: Literal["flipped", "opposed"]

    def told(self, update: FloatVector, last_step: FloatVector | None) -> FloatVector:
        """Return what is sent instead of an update, before it is clipped: a million times too much."""
        truth = update if self.kind == "flipped" or last_step is None else last_step
        return -1e6 * truth


def simulate(
    flights: FleetFlights,
    schedule: Schedule,
    *,
    seed: int,
    noise_multiplier: float,
    encoding: EncodingSpec | None = None,
    lies: Lies | None = None,
    progress: Callable[[], None] | None = None,
) -> FloatVector:
    """Run all rounds and return the last model.

    Parameters
    ----------
    flights : FleetFlights
        What devices learn from.
    schedule : Schedule
        Rounds, cohort and population.
    seed : int
        Of everything random. Two runs with one seed have the same initial model, coins, batches and
        noise in the model's own units, whatever their encoding.
    noise_multiplier : float
        0 for none.
    encoding : EncodingSpec, optional
        Of reports.
    lies : Lies, optional
        What some of the devices do.
    progress : callable, optional
        Called after each round.

    Returns
    -------
    ndarray of float32, shape (P,)
        Its parameters.
    """
    torch.manual_seed(seed)
    parameters = parameters_to_vector(LatenessModel().parameters()).detach().numpy().copy()
    aggregation = schedule.aggregation()
    if encoding is not None:
        aggregation = aggregation.encoded(encoding, parameters=parameters.size)
    state = OptimizerState()
    taken_part = np.zeros(len(flights.spans), dtype=int)
    liars = np.zeros(len(flights.spans), dtype=bool)
    if lies is not None:
        liars = np.random.default_rng([seed, 0]).random(liars.size) < lies.share
    last_step: FloatVector | None = None
    for number in range(1, schedule.rounds + 1):
        coins, batches, noise, rounding = np.random.default_rng([seed, number]).spawn(4)
        heads = coins.random(len(flights.spans)) < aggregation.sampling_probability
        heads &= taken_part < aggregation.max_participations
        taken_part += heads
        cohort = [flights.spans[device] for device in np.flatnonzero(heads)]
        rotation = None
        if encoding is not None:
            rotation = Rotation.of_round(
                parameters.size, plan_sha256=f"{seed:064x}", task="flights", round=number
            )
        total = np.zeros(parameters.size if rotation is None else rotation.padded, dtype=np.int64)
        updates = train_cohort(flights, cohort, parameters, batches)
        for device, honest in zip(np.flatnonzero(heads), updates, strict=True):
            update = honest
            if lies is not None and liars[device]:
                update = lies.told(honest, last_step)
            total += clip_to_grid(update, aggregation, rotation=rotation, random=rounding.bytes)
        total += _noise(aggregation, rotation, parameters.size, noise_multiplier, noise)
        mean = total.astype(np.float64) if rotation is None else rotation.invert(total)
        mean *= aggregation.grid_step / aggregation.expected_cohort
        before = parameters
        parameters, state = apply_update(OPTIMIZER, parameters, state, mean)
        last_step = parameters - before
        if progress is not None:
            progress()
    return parameters


def _noise(
    aggregation: AggregationSpec,
    rotation: Rotation | None,
    length: int,
    multiplier: float,
    generator: np.random.Generator,
) -> NDArray[np.int64]:
    """Return whole-number noise; drawn before it is rotated, to be the same with and without."""
    noise = generator.normal(size=length) * multiplier * aggregation.norm_bound
    return np.rint(noise if rotation is None else rotation.apply(noise)).astype(np.int64)


def train_cohort(
    flights: FleetFlights,
    cohort: list[slice],
    parameters: FloatVector,
    generator: np.random.Generator,
) -> Iterable[FloatVector]:
    """Yield the update of each device of a cohort, all trained from the same parameters."""
    steps = -(-TRAINING.max_examples // BATCH_SIZE)
    for start in range(0, len(cohort), _AT_ONCE):
        part = cohort[start : start + _AT_ONCE]
        rows = np.zeros((len(part), steps * BATCH_SIZE), dtype=np.int64)
        weights = np.zeros(rows.shape, dtype=np.float32)
        for device, span in enumerate(part):
            chosen = generator.permutation(np.arange(span.start, span.stop))
            chosen = chosen[: TRAINING.max_examples]
            rows[device, : chosen.size], weights[device, : chosen.size] = chosen, 1.0
        yield from _take_steps(flights, rows, weights, parameters)


def _take_steps(
    flights: FleetFlights,
    rows: NDArray[np.int64],
    weights: NDArray[np.float32],
    parameters: FloatVector,
) -> NDArray[np.float32]:
    """Take the steps of one epoch of SGD for several devices, each with a model of its own."""
    devices, width = len(rows), flights.features.shape[1]
    hidden = HIDDEN_UNITS * width
    shapes = ((HIDDEN_UNITS, width), (HIDDEN_UNITS,), (HIDDEN_UNITS,), (1,))
    ends = np.cumsum([0, hidden, HIDDEN_UNITS, HIDDEN_UNITS, 1])
    start = torch.from_numpy(parameters)
    matrix, bias, output, offset = (
        start[ends[i] : ends[i + 1]].reshape(shape).expand(devices, *shape).clone()
        for i, shape in enumerate(shapes)
    )
    for first in range(0, rows.shape[1], BATCH_SIZE):
        batch = slice(first, first + BATCH_SIZE)
        inputs = torch.from_numpy(flights.features[rows[:, batch]])
        target = torch.from_numpy(flights.target[rows[:, batch]])
        weight = torch.from_numpy(weights[:, batch])
        active = torch.relu(torch.baddbmm(bias[:, None], inputs, matrix.mT))
        logit = (active @ output[:, :, None])[:, :, 0] + offset
        slope = (torch.sigmoid(logit) - target) * weight
        slope *= TRAINING.learning_rate / weight.sum(dim=1, keepdim=True).clamp(min=1.0)
        back = slope[:, :, None] * output[:, None] * (active > 0)
        output -= (slope[:, None] @ active)[:, 0]
        offset -= slope.sum(dim=1, keepdim=True)
        matrix -= back.mT @ inputs
        bias -= back.sum(dim=1)
    moved = torch.cat([part.reshape(devices, -1) for part in (matrix, bias, output, offset)], dim=1)
    updates: NDArray[np.float32] = (moved - start).numpy()
    return updates
