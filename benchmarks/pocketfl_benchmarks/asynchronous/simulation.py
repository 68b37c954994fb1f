"""Training the demo's model on a made-up clock, in rounds that wait for all and in rounds that do not.

Features, model, training, clipping, rounding, weights and server optimizer are the real ones.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import torch
from torch.nn.utils import parameters_to_vector

from pocketfl.clipping import clip_to_grid
from pocketfl.plan import AggregationSpec
from pocketfl.plan.asynchronous import WHOLE_WEIGHT, staleness_weight
from pocketfl.runtimes import FloatVector
from pocketfl_benchmarks.asynchronous.fleet import DAY, Phones
from pocketfl_benchmarks.flights.simulation import FleetFlights, train_cohort
from pocketfl_benchmarks.flights.task import CLIP_NORM, OPTIMIZER, LatenessModel
from pocketfl_server.optimizers import OptimizerState, apply_update

OVER_SELECTION: Final = 1.3
"""Devices that a synchronous round lets in for each report that it needs (Bonawitz et al. 2019)."""
ROUND_SECONDS: Final = 600.0
"""A session that lasts longer is given up, in either kind of round."""
FLOOR: Final = 0.8
"""Share of the wanted reports with which a synchronous round may end at its deadline."""
MAX_STALENESS: Final = 10
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


@dataclass(kw_only=True)
class Run:
    """What one training came to."""

    seconds: float = 0.0
    releases: int = 0
    reports: int = 0
    wasted: int = 0
    staleness: list[int] = field(default_factory=list)
    auc: float = 0.0
    reached: bool = False


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
        noise_multiplier: float,
        seed: int,
    ) -> None:
        self._flights = flights
        self._phones = phones
        self._rounds = rounds
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
        batches = self._buffered() if self._rounds.asynchronous else self._waiting()
        for batch in batches:
            if batch.seconds - BEGINNING > days * DAY:
                break
            self._release(batch)
            self.run.seconds = batch.seconds - BEGINNING
            self.run.auc = self._flights.auc(self._versions[self.run.releases])
            if self.run.auc >= auc:
                self.run.reached = True
                break
        return self.run

    def _waiting(self) -> Iterator[Batch]:
        """Yield the reports of rounds that begin when the one before has ended."""
        now, wanted = BEGINNING, self._rounds.reports
        while True:
            there = np.flatnonzero(self._phones.hours_left(now) > 0)
            if there.size < wanted:
                now += WAIT_SECONDS
                continue
            chosen = self._generator.permutation(there)[: self._rounds.at_once]
            ends = [self._phones.session(int(d), now, self._generator) for d in chosen]
            came = sorted(
                (end, int(d))
                for d, (end, done) in zip(chosen, ends, strict=True)
                if done and end <= now + ROUND_SECONDS
            )
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
        busy: set[int] = set()
        resting: dict[int, int] = {}
        buffer: list[tuple[int, int]] = []
        while True:
            busy_now = self._rounds.at_once - len(out)
            if busy_now > 0:
                there = self._generator.permutation(
                    np.flatnonzero(self._phones.hours_left(now) > 0)
                )
                version = self.run.releases
                for device in map(int, there):
                    if len(out) >= self._rounds.at_once:
                        break
                    # One report under way at most: as the plan's separation has it.
                    if device in busy or resting.get(device, 0) > version:
                        continue
                    end, done = self._phones.session(device, now, self._generator)
                    late = end > now + ROUND_SECONDS
                    heapq.heappush(
                        out,
                        (min(end, now + ROUND_SECONDS), device, version, done and not late),
                    )
                    busy.add(device)
                    resting[device] = version + MAX_STALENESS + 1
            if not out:
                now += WAIT_SECONDS
                continue
            now, device, version, done = heapq.heappop(out)
            busy.discard(device)
            if not done:
                continue
            if self.run.releases - version > MAX_STALENESS:
                self.run.wasted += 1
                continue
            buffer.append((device, version))
            if len(buffer) == self._rounds.reports:
                kept = [e for e in buffer if self.run.releases - e[1] <= MAX_STALENESS]
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
            OPTIMIZER, self._versions[current], self._state, mean / len(batch.devices)
        )
        self.run.releases += 1
        self.run.reports += len(batch.devices)
        self._versions[current + 1] = parameters
        self._versions.pop(current - MAX_STALENESS - 1, None)
