"""Rounds of a simulated fleet: sample, train, clip, round, sum, add noise, account, advance."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Final, Literal, Self

import numpy as np
from numpy.typing import NDArray

from pocketfl.clipping import RandomBytes, clip_to_grid
from pocketfl.device.leases import training_seed
from pocketfl.encoding.rotation import Rotation
from pocketfl.runtimes.interface import FloatVector
from pocketfl_server.optimizers import OptimizerState, apply_update
from pocketfl_server.releases import mean_update
from pocketfl_server.trusted.accounting import affords, progress, spent_privacy
from pocketfl_server.trusted.tree import advance
from pocketfl_simulation.choice import EngineChoice, make_engine
from pocketfl_simulation.cohorts import Cohorts
from pocketfl_simulation.data import FleetData
from pocketfl_simulation.engines import Engine
from pocketfl_simulation.errors import SimulationError
from pocketfl_simulation.noise import draw_noise
from pocketfl_simulation.packing import pack
from pocketfl_simulation.tasks import SimulationTask

_SAMPLE: Final = 64
"""Devices on which the engine is chosen."""

Reporting = Callable[[NDArray[np.int64]], NDArray[np.int64]]
"""Takes the devices of a cohort, returns those whose reports arrive."""


@dataclass(frozen=True, kw_only=True)
class SimulationSettings:
    """How to simulate.

    Attributes
    ----------
    seed : int
        Of coins, batches, dropout and rounding. The noise is the trusted tier's and is never seeded.
    engine : {"auto", "onnxruntime", "torch", "dense", "eager", "compiled"}
        ``auto`` measures all that train the model on the first cohort and takes the fastest.
    threads : int
        That train; one for each core by default.
    """

    seed: int = 0
    engine: EngineChoice = "auto"
    threads: int = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1

    def __post_init__(self) -> None:
        if self.seed < 0 or self.threads < 1:
            raise SimulationError("seed cannot be negative, and threads is at least 1")


@dataclass(frozen=True, kw_only=True)
class ExactSum:
    """What a trusted tier has before it adds noise: the sum of a round's reports, and no report.

    Attributes
    ----------
    total : ndarray of int64, shape (report_length,)
        In grid units.
    norms : ndarray of float64, shape (reports,)
        Of the updates, before clipping.
    """

    total: NDArray[np.int64]
    norms: NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class SimulatedRound:
    """What became of a round.

    Attributes
    ----------
    round : int
        Its number.
    state : {"finished", "aborted"}
        Aborted below the cohort floor: nothing is released.
    cohort, reports : int
        Devices whose coin said yes, and those whose reports arrived.
    clipped_share : float
        Of the updates that were clipped.
    median_norm : float
        Of the updates before clipping, in the model's units.
    epsilon : float or None
        Spent by all releases so far, at the plan's delta; None without privacy.
    seconds : float
        That the round took to simulate.
    """

    round: int
    state: Literal["finished", "aborted"]
    cohort: int
    reports: int
    clipped_share: float
    median_norm: float
    epsilon: float | None
    seconds: float


def rounding_bytes(seed: int, *, number: int, first: int) -> RandomBytes:
    """Return what the reports of a part of a round's cohort are rounded by, one after the other.

    Parameters
    ----------
    seed, number : int
        Of the simulation; of the round.
    first : int
        Place of the part's first device among those whose reports arrive.
    """
    random = np.random.PCG64([seed, number, 2, first])

    def draw(count: int) -> bytes:
        return random.random_raw(-(-count // 8)).tobytes()[:count]

    return draw


class BudgetSpentError(SimulationError):
    """The next release would take the task beyond the rounds or the epsilon of its plan."""


class Simulation:
    """A task on a fleet in this process; a context manager.

    Parameters
    ----------
    task : SimulationTask
        What is run; its plan's ``population`` is the number of devices.
    data : FleetData
        What they hold.
    settings : SimulationSettings, optional
        How.

    Attributes
    ----------
    parameters : ndarray of float32, shape (P,)
        The global model.
    releases : int
        Rounds that moved it.

    Raises
    ------
    SimulationError
        If plan and data differ in the number of devices, or the plan is for asynchronous rounds.
    """

    _is_asynchronous = False

    def __init__(
        self, task: SimulationTask, data: FleetData, settings: SimulationSettings | None = None
    ) -> None:
        self._manifest = task.plan.manifest
        if (self._manifest.aggregation.asynchronous is not None) != self._is_asynchronous:
            raise SimulationError(
                "asynchronous rounds need devices on a clock: leave `asynchronous` out of the plan's "
                "aggregation, or give `--fleet` a file that says how many train at a time"
                if not self._is_asynchronous
                else "the plan is for rounds that wait for their reports: it has no `asynchronous`"
            )
        if len(data) != self._manifest.aggregation.population:
            raise SimulationError(
                f"the plan is for {self._manifest.aggregation.population} devices, the data have "
                f"{len(data)}"
            )
        self.task: Final = task
        self.settings: Final = settings or SimulationSettings()
        self.parameters = task.plan.initial_parameters()
        self.releases = 0
        self._data = data
        self._state = OptimizerState()
        self._number = 0
        self._bounds = self._manifest.aggregation
        self._tree: dict[int, NDArray[np.int64]] = {}
        self._cohorts = Cohorts(self._manifest, devices=len(data), seed=self.settings.seed)
        self._pool = ThreadPoolExecutor(self.settings.threads, thread_name_prefix="simulate")
        self._engine: Engine | None = None

    @property
    def engine(self) -> Engine:
        """What trains; chosen with the first cohort."""
        if self._engine is None:
            raise SimulationError("the engine is chosen in the first round")
        return self._engine

    def run(self, rounds: int, *, reporting: Reporting | None = None) -> Iterator[SimulatedRound]:
        """Run rounds one after the other, until the plan's budget is spent.

        Parameters
        ----------
        rounds : int
            At most so many.
        reporting : callable, optional
            Says whose reports arrive; all do by default.
        """
        for _ in range(rounds):
            try:
                yield self.run_round(reporting=reporting)
            except BudgetSpentError:
                return

    def run_round(self, *, reporting: Reporting | None = None) -> SimulatedRound:
        """Run the next round.

        Raises
        ------
        BudgetSpentError
            If the plan allows no further release.
        ReportError
            If training diverged on a device.
        """
        began = time.perf_counter()
        number = self._number + 1
        reached = number if self._has_tree else self.releases + 1
        if not affords(self._manifest, reached):
            raise BudgetSpentError(f"the plan affords no release after {self.releases}")
        self._number = number
        cohort = self._cohorts.toss(number)
        devices = cohort if reporting is None else reporting(cohort)
        if len(devices) < max(1, self._manifest.aggregation.cohort_floor):
            return SimulatedRound(
                round=number,
                state="aborted",
                cohort=len(cohort),
                reports=len(devices),
                clipped_share=np.nan,
                median_norm=np.nan,
                epsilon=self.epsilon,
                seconds=time.perf_counter() - began,
            )
        # It depends on nobody's report, so another core draws it meanwhile.
        noise = self._pool.submit(self._draw_noise, number)
        exact = self.sum_round(devices, number=number)
        clip_norm = self._bounds.clip_norm
        self._advance(exact.total + noise.result(), number, reports=len(exact.norms))
        return SimulatedRound(
            round=number,
            state="finished",
            cohort=len(cohort),
            reports=len(exact.norms),
            clipped_share=float((exact.norms > clip_norm).mean()),
            median_norm=float(np.median(exact.norms)),
            epsilon=self.epsilon,
            seconds=time.perf_counter() - began,
        )

    @property
    def epsilon(self) -> float | None:
        """What all releases so far have spent; see :func:`~.accounting.spent_privacy`."""
        reached = progress(self._manifest, releases=self.releases, last_round=self._number)
        reached = reached if self.releases else 0
        return spent_privacy(self._manifest, reached).epsilon

    @property
    def _has_tree(self) -> bool:
        return self._manifest.dp is not None and self._manifest.dp.tree is not None

    def updates(
        self, devices: NDArray[np.int64], *, number: int, start: FloatVector | None = None
    ) -> NDArray[np.float64]:
        """Return what devices learn from a model in a round, before clipping.

        Parameters
        ----------
        devices : ndarray of int64, shape (D,)
            Which.
        number : int
            Of the round; decides which examples they take and in which order.
        start : ndarray of float32, shape (P,), optional
            The model; the present one by default.

        Returns
        -------
        ndarray of float64, shape (D, P)
        """
        chosen = [int(device) for device in devices]
        seeds = [
            training_seed(
                self.settings.seed,
                user=self._data.name(device),
                task=self._manifest.name,
                round=number,
            )
            for device in chosen
        ]
        steps = pack(self._data, chosen, seeds=seeds, manifest=self._manifest)
        if self._engine is None:
            self._engine = make_engine(
                self.task, self.settings.engine, sample=steps, threads=self.settings.threads
            )
        return self._engine.train(steps, self.parameters if start is None else start)

    def sum_round(
        self,
        devices: NDArray[np.int64],
        *,
        number: int,
        start: FloatVector | None = None,
        first: int = 0,
    ) -> ExactSum:
        """Train devices, clip and round their updates, and sum them, without noise.

        Parameters
        ----------
        devices, number, start
            As for :meth:`updates`.
        first : int
            Place of the first of them among those whose reports are rounded.
        """
        parts: list[Future[ExactSum]] = []
        done: list[ExactSum] = []
        place = 0
        while place < len(devices):
            part = devices[place : place + (self._engine.at_once if self._engine else _SAMPLE)]
            work = partial(self._sum_part, part, number=number, start=start, first=first + place)
            if self._engine is None:
                done.append(work())  # Chooses the engine.
            else:
                parts.append(self._pool.submit(work))
            place += len(part)
        done += [part.result() for part in parts]
        total = np.zeros(self._manifest.report_length, dtype=np.int64)
        for one in done:
            total += one.total
        norms = np.concatenate([np.zeros(0), *(one.norms for one in done)])
        return ExactSum(total=total, norms=norms)

    def _sum_part(
        self, devices: NDArray[np.int64], *, number: int, start: FloatVector | None, first: int
    ) -> ExactSum:
        updates = self.updates(devices, number=number, start=start)
        rotation = self._rotation(number)
        random = rounding_bytes(self.settings.seed, number=number, first=first)
        total = np.zeros(self._manifest.report_length, dtype=np.int64)
        for update in updates:
            total += clip_to_grid(update, self._bounds, rotation=rotation, random=random)
        return ExactSum(total=total, norms=np.linalg.norm(updates, axis=1))

    def _rotation(self, number: int) -> Rotation | None:
        if self._manifest.aggregation.encoding is None:
            return None
        return Rotation.of_round(
            self._manifest.summed_length,
            plan_sha256=self.task.plan.sha256,
            task=self._manifest.name,
            round=self._manifest.rotation_round(number),
        )

    def _draw_noise(self, number: int) -> NDArray[np.int64]:
        dp, length = self._manifest.dp, self._manifest.report_length
        if dp is None:
            return np.zeros(length, dtype=np.int64)
        draw = partial(
            draw_noise,
            length,
            noise_multiplier=dp.noise_multiplier,
            norm_bound=self._bounds.norm_bound * self._bounds.whole_weight,
        )
        if dp.tree is None:
            return draw()
        noise, self._tree = advance(self._tree, number=number, draw=draw)
        return noise

    def _advance(self, released: NDArray[np.int64], number: int, *, reports: int) -> None:
        adaptive = self._bounds.adaptive
        update = mean_update(
            released,
            manifest=self._manifest,
            plan_sha256=self.task.plan.sha256,
            task=self._manifest.name,
            round_number=number,
            clip_norm=None if adaptive is None else self._bounds.clip_norm,
            reports=reports,
        )
        moved, self._state = apply_update(
            self.task.optimizer,
            self.parameters,
            self._state,
            update,
            storage=self._manifest.required_model.stored_as,
        )
        if not np.isfinite(moved).all():
            raise SimulationError("the global model diverged; lower the server's learning rate")
        self.parameters = moved
        self.releases += 1
        if adaptive is not None:
            rotation = self._rotation(number)
            summed = released if rotation is None else rotation.invert(released)
            within = adaptive.share_within(
                float(summed[-1]), norm_bound=self._bounds.norm_bound, reports=reports
            )
            self._bounds = self._bounds.in_round(adaptive.following(self._bounds.clip_norm, within))

    def close(self) -> None:
        """Stop the threads."""
        self._pool.shutdown()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
