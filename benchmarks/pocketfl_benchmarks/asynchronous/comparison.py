"""What is the same for every kind of rounds that is compared, and each kind's own learning rate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from pocketfl_benchmarks.asynchronous.fleet import Phones
from pocketfl_benchmarks.asynchronous.simulation import Rounds, Run, Training
from pocketfl_benchmarks.flights.simulation import FleetFlights
from pocketfl_benchmarks.flights.task import OPTIMIZER

TUNING_SEED: Final = 1000
"""Of the fleet that learning rates are chosen on; figures are of others."""


@dataclass(frozen=True, kw_only=True)
class _Setting:
    target: float
    days: float
    drop_out: float
    noise_multiplier: float


class Comparison:
    """Runs kinds of rounds on the same fleets.

    Parameters
    ----------
    flights : FleetFlights
        What devices learn from.
    target : float
        AUC to reach.
    days : float
        After which a run is given up.
    drop_out : float
        Share of sessions that break off.
    noise_multiplier : float
        Of each release.
    """

    def __init__(
        self,
        flights: FleetFlights,
        *,
        target: float,
        days: float,
        drop_out: float,
        noise_multiplier: float,
    ) -> None:
        self._flights = flights
        self._setting = _Setting(
            target=target, days=days, drop_out=drop_out, noise_multiplier=noise_multiplier
        )

    def run(self, rounds: Rounds, learning_rate: float, *, seed: int) -> Run:
        """Train once; runs with the same seed have the same phones and initial model."""
        setting = self._setting
        phones = Phones.draw(
            len(self._flights.spans),
            drop_out=setting.drop_out,
            generator=np.random.default_rng([seed, 0]),
        )
        training = Training(
            self._flights,
            phones,
            rounds,
            optimizer=replace(OPTIMIZER, learning_rate=learning_rate),
            noise_multiplier=setting.noise_multiplier,
            seed=seed,
        )
        return training.until(setting.target, days=setting.days)

    def best_rate(self, rounds: Rounds, rates: Sequence[float]) -> float:
        """Return the learning rate that reaches the target first, else comes nearest to it."""
        if len(rates) == 1:
            return rates[0]
        runs = {rate: self.run(rounds, rate, seed=TUNING_SEED) for rate in rates}
        return min(
            rates,
            key=lambda rate: (
                not runs[rate].reached,
                runs[rate].seconds if runs[rate].reached else -runs[rate].best,
            ),
        )
