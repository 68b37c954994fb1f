"""Training the demo's model on a made-up clock, in rounds that wait for all and in rounds that do not.

Features, model, training, clipping, rounding, weights and server optimizer are the real ones. Both
kinds of rounds keep to one rule of privacy: no sampling is assumed, a device's check-ins lie so many
releases apart, it takes part at most so often, and each release has the noise that makes all of that
the demo's epsilon.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.stats import norm
from torch.nn.utils import parameters_to_vector

from pocketfl.clipping import clip_to_grid
from pocketfl.plan import AggregationSpec
from pocketfl.plan.asynchronous import WHOLE_WEIGHT, AsynchronousSpec, staleness_weight
from pocketfl.runtimes import FloatVector
from pocketfl_benchmarks.asynchronous.fleet import DAY, Phones
from pocketfl_benchmarks.flights.simulation import FleetFlights, train_cohort
from pocketfl_benchmarks.flights.task import CLIP_NORM, DELTA, EPSILON, LatenessModel
from pocketfl_server.optimizers import OptimizerSpec, OptimizerState, apply_update

OVER_SELECTION: Final = 1.3
"""Devices that a synchronous round lets in for each report that it needs (Bonawitz et al. 2019)."""
ROUND_SECONDS: Final = 600.0
"""A session that lasts longer is given up, in either kind of round."""
FLOOR: Final = 0.8
"""Share of the wanted reports with which a synchronous round may end at its deadline."""
BOUNDS: Final = AsynchronousSpec(max_staleness=4, min_separation=5)
"""Of the plan; devices of either kind of rounds keep to its separation."""
PARTICIPATIONS: Final = 8
"""Most of one device."""
WAIT_SECONDS: Final = 60.0
"""How long nobody asks where too few devices are there."""
BEGINNING: Final = 0.0
"""When training begins: at midnight, when most are there."""


@dataclass(frozen=True, kw_only=True)
class Rounds:
    """How reports become releases.

    Attributes
    ----------
    name : str
        For tables.
    reports : int
        Of a release.
    at_once : int
        Devices that train at the same time.
    asynchronous : bool
        Whether the next version opens before all of them are back.
    """

    name: str
    reports: int
    at_once: int
    asynchronous: bool


def production_noise() -> float:
    """Return the least noise with which all participations of a device cost the demo's epsilon.

    By the formula for the Gaussian mechanism (Balle and Wang 2018, theorem 8): composed, participations
    are one with a scale of their root.
    """

    def excess(multiplier: float) -> float:
        scale = PARTICIPATIONS**0.5 / multiplier
        high, low = scale / 2 - EPSILON / scale, -scale / 2 - EPSILON / scale
        return float(norm.cdf(high) - math.exp(EPSILON) * norm.cdf(low)) - DELTA

    return math.ceil(1000 * float(brentq(excess, 0.2, 100.0))) / 1000


@dataclass(kw_only=True)
class Run:
    """What one training came to; ``curve`` has seconds and AUC of each release."""

    seconds: float = 0.0
    curve: list[tuple[float, float]] = field(default_factory=list)
    releases: int = 0
    reports: int = 0
    wasted: int = 0
    staleness: list[int] = field(default_factory=list)
    auc: float = 0.0
    reached: bool = False

    @property
    def best(self) -> float:
        """Highest AUC of a release."""
        return max((auc for _, auc in self.curve), default=0.0)

    def improvements(self) -> list[tuple[float, float]]:
        """Return hours and AUC of each release that was better than all before it."""
        found: list[tuple[float, float]] = []
        for seconds, auc in self.curve:
            if not found or auc > found[-1][1]:
                found.append((round(seconds / 3600, 4), round(auc, 5)))
        return found


@dataclass(frozen=True)
class Batch:
    """Devices whose reports make a release, and when: each with the version that it trained from."""

    seconds: float
    devices: list[int]
    versions: list[int]


class Training:
    """One training from a seed until an AUC is reached.

    Parameters
    ----------
    flights : FleetFlights
        What devices learn from.
    phones : Phones
        When and how fast.
    rounds : Rounds
        Of which kind.
    optimizer : OptimizerSpec
        Of the server.
    noise_multiplier : float
        Of each release, 0 for none.
    seed : int
        Of everything random.
    """

    def __init__(
        self,
        flights: FleetFlights,
        phones: Phones,
        rounds: Rounds,
        *,
        optimizer: OptimizerSpec,
        noise_multiplier: float,
        seed: int,
    ) -> None:
        self._flights = flights
        self._phones = phones
        self._rounds = rounds
        self._optimizer = optimizer
        self._ends = BEGINNING
        self._rest_until = np.zeros(len(flights.spans), dtype=np.int64)
        self._taken_part = np.zeros(len(flights.spans), dtype=np.int64)
        self._noise = noise_multiplier
        self._generator = np.random.default_rng([seed, 1])
        torch.manual_seed(seed)
        start = parameters_to_vector(LatenessModel().parameters()).detach().numpy().copy()
        self._versions: dict[int, FloatVector] = {0: start}
        self._state = OptimizerState()
        self._bounds = AggregationSpec(
            clip_norm=CLIP_NORM,
            population=len(flights.spans),
            cohort_floor=1,
            max_rounds=1,
            max_participations=1,
        )
        self.run = Run()

    def until(self, auc: float, *, days: float) -> Run:
        """Train until the model has this AUC, or for so many days."""
        self._ends = BEGINNING + days * DAY
        batches = self._buffered() if self._rounds.asynchronous else self._waiting()
        for batch in batches:
            if batch.seconds > self._ends:
                break
            self._release(batch)
            self.run.seconds = batch.seconds - BEGINNING
            self.run.auc = self._flights.auc(self._versions[self.run.releases])
            self.run.curve.append((self.run.seconds, self.run.auc))
            if self.run.auc >= auc:
                self.run.reached = True
                break
        return self.run

    def _who_may(self, now: float) -> NDArray[np.int64]:
        """Return the devices that are there and may check in to the version of now, in any order."""
        may = (
            (self._phones.hours_left(now) > 0)
            & (self._rest_until <= self.run.releases)
            & (self._taken_part < PARTICIPATIONS)
        )
        return self._generator.permutation(np.flatnonzero(may))

    def _check_in(self, device: int, now: float) -> tuple[float, bool]:
        """Count a participation; return when its session ends, and whether by a report in time."""
        self._rest_until[device] = self.run.releases + BOUNDS.min_separation
        self._taken_part[device] += 1
        end, done = self._phones.session(device, now, self._generator)
        late = end > now + ROUND_SECONDS
        return min(end, now + ROUND_SECONDS), done and not late

    def _waiting(self) -> Iterator[Batch]:
        """Yield the reports of rounds that begin when the one before has ended."""
        now, wanted = BEGINNING, self._rounds.reports
        while now <= self._ends:
            there = self._who_may(now)
            if there.size < wanted:
                now += WAIT_SECONDS
                continue
            chosen = [int(device) for device in there[: self._rounds.at_once]]
            ends = [self._check_in(device, now) for device in chosen]
            came = sorted((end, d) for d, (end, done) in zip(chosen, ends, strict=True) if done)
            if len(came) >= wanted:
                # Who comes later has trained for nothing.
                self.run.wasted += len(came) - wanted
                came, now = came[:wanted], came[wanted - 1][0]
            else:
                now += ROUND_SECONDS
                if len(came) < FLOOR * wanted:
                    self.run.wasted += len(came)
                    continue
            version = self.run.releases
            yield Batch(now, [device for _, device in came], [version] * len(came))

    def _buffered(self) -> Iterator[Batch]:
        """Yield the reports of releases that follow each other while devices train."""
        now = BEGINNING
        out: list[tuple[float, int, int, bool]] = []
        buffer: list[tuple[int, int]] = []
        while now <= self._ends:
            free = self._rounds.at_once - len(out)
            # A device that trains is not asked again before its report is too old for any release.
            for device in map(int, self._who_may(now)[:free] if free else ()):
                end, done = self._check_in(device, now)
                heapq.heappush(out, (end, device, self.run.releases, done))
            if not out:
                now += WAIT_SECONDS
                continue
            now, device, version, done = heapq.heappop(out)
            if not done:
                continue
            if self.run.releases - version > BOUNDS.max_staleness:
                self.run.wasted += 1
                continue
            buffer.append((device, version))
            if len(buffer) == self._rounds.reports:
                kept = [e for e in buffer if self.run.releases - e[1] <= BOUNDS.max_staleness]
                yield Batch(now, [d for d, _ in kept], [v for _, v in kept])
                buffer = []

    def _release(self, batch: Batch) -> None:
        """Sum what devices report, each from its version, and make the next one."""
        current = self.run.releases
        total = np.zeros(self._versions[current].size, dtype=np.int64)
        for version in sorted(set(batch.versions)):
            spans = [
                self._flights.spans[device]
                for device, its in zip(batch.devices, batch.versions, strict=True)
                if its == version
            ]
            weight = staleness_weight(current - version)
            for update in train_cohort(
                self._flights, spans, self._versions[version], self._generator
            ):
                grid = clip_to_grid(update, self._bounds, random=self._generator.bytes)
                total += weight * grid.astype(np.int64)
                self.run.staleness.append(current - version)
        unit = self._bounds.norm_bound * WHOLE_WEIGHT
        noise = self._generator.normal(size=total.size) * self._noise * unit
        mean = (total + np.rint(noise)) * self._bounds.grid_step / WHOLE_WEIGHT
        parameters, self._state = apply_update(
            self._optimizer, self._versions[current], self._state, mean / len(batch.devices)
        )
        self.run.releases += 1
        self.run.reports += len(batch.devices)
        self._versions[current + 1] = parameters
        self._versions.pop(current - BOUNDS.max_staleness - 1, None)
