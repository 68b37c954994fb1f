"""What needs all flights in one place, which no server of a federated run has: trained to compare."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from pocketfl_benchmarks.flights.baselines import CentralModel, pool_flights, train_baselines
from pocketfl_benchmarks.flights.bought import SimulatedArm, simulate_arms
from pocketfl_benchmarks.flights.data import FlightTable
from pocketfl_benchmarks.flights.statistics import Learned
from pocketfl_benchmarks.flights.task import FEATURES, Schedule


@dataclass(frozen=True)
class CentralTraining:
    """What came of it.

    Attributes
    ----------
    server_only, server_trained : CentralModel
        Without the aircraft's own features, and with them.
    bought : list of SimulatedArm
        What private normalisation and balancing changed; empty if that was not asked.
    """

    server_only: CentralModel
    server_trained: CentralModel
    bought: list[SimulatedArm]


def train_centrally(
    table: FlightTable,
    training: Sequence[str],
    held_out: Sequence[str],
    *,
    schedule: Schedule,
    learned: Learned | None,
    simulate: bool,
    seed: int,
) -> CentralTraining:
    """Train both baselines and, if asked, the simulated arms, in one process that pools flights once.

    Parameters
    ----------
    table : FlightTable
        All flights.
    training, held_out : sequence of str
        Who trains, and whose flights judge simulated arms.
    schedule : Schedule
        Of the simulated arms.
    learned : Learned or None
        From the fleet's statistics.
    simulate : bool
        Whether to simulate what they bought; needs ``learned``.
    seed : int
        Of everything random.
    """
    torch.set_num_threads(1)
    spec = FEATURES if learned is None else learned.apply(FEATURES)
    pooled = pool_flights(table, training, spec=spec)
    server_only, server_trained = train_baselines(pooled, seed=seed)
    bought = []
    if simulate and learned is not None:
        bought = simulate_arms(
            table,
            training,
            held_out,
            pooled=pooled,
            schedule=schedule,
            learned=learned,
            seed=seed,
        )
    return CentralTraining(server_only, server_trained, bought)
