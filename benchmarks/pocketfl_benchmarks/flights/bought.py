"""What private normalisation and balancing bought: the private arm again, without one and without both.

Simulated: the same plan's local steps, clipping, coin, noise and server optimizer, with all devices of
a round in one array (:mod:`pocketfl_benchmarks.balancing.simulation`). Three more real arms would make
the demo three times as long.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pocketfl.balancing.correction import correct_outputs
from pocketfl_benchmarks.balancing.ablation import judge_scores
from pocketfl_benchmarks.balancing.simulation import (
    DeviceFlights,
    Network,
    Rounds,
    train_privately,
)
from pocketfl_benchmarks.flights.baselines import PooledFlights, pool_flights
from pocketfl_benchmarks.flights.data import FlightTable
from pocketfl_benchmarks.flights.statistics import NOISE_MULTIPLIER, Learned
from pocketfl_benchmarks.flights.task import FEATURES, INITIAL_BIAS, Schedule


@dataclass(frozen=True, kw_only=True)
class SimulatedArm:
    """One way to prepare the data, judged on the held-out flights.

    Attributes
    ----------
    name : str
        Which.
    auc, average_precision, normalised_entropy : float
        Of the scores as inference gives them; entropy as in ``docs/balancing.md``.
    """

    name: str
    auc: float
    average_precision: float
    normalised_entropy: float


def simulate_arms(
    table: FlightTable,
    training: Sequence[str],
    held_out: Sequence[str],
    *,
    pooled: PooledFlights,
    schedule: Schedule,
    learned: Learned,
    seed: int,
) -> list[SimulatedArm]:
    """Train with public ranges, with the learned ones, and with balancing as well.

    Parameters
    ----------
    table : FlightTable
        All flights.
    training, held_out : sequence of str
        Who trains, and whose flights judge.
    pooled : PooledFlights
        The flights of who trains, under the learned ranges.
    schedule : Schedule
        Rounds and cohort.
    learned : Learned
        From the fleet's own statistics.
    seed : int
        Of everything random.
    """
    ranges = Learned(bundle=learned.bundle, balancing=None)
    rounds = Rounds(
        count=schedule.rounds,
        sampling_probability=schedule.sampling_probability,
        noise_multiplier=schedule.privacy(beside=NOISE_MULTIPLIER).noise_multiplier,
    )
    arms = []
    # Balancing weighs the loss; it changes nothing of the flights.
    public = (
        pool_flights(table, training, spec=FEATURES),
        pool_flights(table, held_out, spec=FEATURES),
    )
    private = (pooled, pool_flights(table, held_out, spec=learned.apply(FEATURES)))
    for name, preparation, (flights, judged) in (
        ("public ranges", Learned(bundle=None, balancing=None), public),
        ("private ranges", ranges, private),
        ("private ranges, balanced", learned, private),
    ):
        ends = np.cumsum([table.spans[a].stop - table.spans[a].start for a in training])[:-1]
        devices = [
            DeviceFlights(features, target)
            for features, target in zip(
                np.split(flights.features, ends), np.split(flights.target, ends), strict=True
            )
        ]
        bias = preparation.starting_logit
        parameters = train_privately(
            devices,
            rounds=rounds,
            balancing=preparation.balancing,
            bias=INITIAL_BIAS if bias is None else bias,
            seed=seed,
        )
        logits = Network(judged.features.shape[1]).logits(parameters, judged.features)
        corrected = correct_outputs({"output": logits}, preparation.balancing)["output"]
        found = judge_scores(logits, corrected, judged.target)
        arms.append(
            SimulatedArm(
                name=name,
                auc=found["auc"],
                average_precision=found["average_precision"],
                normalised_entropy=found["normalised_entropy"],
            )
        )
    return arms
