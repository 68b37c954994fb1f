"""What runs beside the main arm, in two processes that take what it leaves over.

One makes ready what rounds need while the devices are asked: the plan, and the devices of the arm
without noise. It runs that arm once the first private rounds are over, which have the machine for
themselves. The other does last what nothing waits for: the held-out devices, and central training.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path
from types import TracebackType
from typing import Self

from pocketfl.plan import EncodingSpec, Plan
from pocketfl.plan.manifest import RuntimeName
from pocketfl_benchmarks.flights.arms import ArmSettings, train_in_process
from pocketfl_benchmarks.flights.background import Advance, Background
from pocketfl_benchmarks.flights.central import CentralTraining, train_centrally
from pocketfl_benchmarks.flights.data import FlightTable
from pocketfl_benchmarks.flights.evaluation import HeldOutDevices, HeldOutFlights, prepare_held_out
from pocketfl_benchmarks.flights.results import Arm
from pocketfl_benchmarks.flights.statistics import Learned
from pocketfl_benchmarks.flights.stores import copy_stores
from pocketfl_benchmarks.flights.task import Schedule, export_task
from pocketfl_server.local import LocalDeployment


class Beside:
    """The two processes and what they are at; a context manager.

    Parameters
    ----------
    table : FlightTable
        All flights.
    training, held_out : sequence of str
        Who trains, and whose flights judge.
    schedule : Schedule
        Rounds and cohort.
    arms : ArmSettings
        What all arms share.
    stores : Path
        Folder of all stores.
    folder : Path
        Where to work.
    compares : bool
        Whether there is an arm without noise beside the main one, and simulated arms.
    """

    def __init__(
        self,
        table: FlightTable,
        training: Sequence[str],
        held_out: Sequence[str],
        *,
        schedule: Schedule,
        arms: ArmSettings,
        stores: Path,
        folder: Path,
        compares: bool,
    ) -> None:
        self._table = table
        self._training = training
        self._held_out = held_out
        self._schedule = schedule
        self._arms = arms
        self._stores = stores
        self._folder = folder
        self.compares = compares
        self._stack = contextlib.ExitStack()
        self._early = self._stack.enter_context(Background())
        self._late = self._stack.enter_context(Background())
        self._late.step_back()
        self._exported: Future[bytes]
        self._arm: Future[Arm] | None = None
        self._central: Future[CentralTraining] | None = None
        self._prepared: Future[HeldOutFlights]

    def export(
        self,
        *,
        signing_key: bytes,
        encoding: EncodingSpec | None,
        runtimes: Sequence[RuntimeName],
        asks: bool,
    ) -> None:
        """Begin to export the plan, and to open the devices of the arm without noise.

        Parameters are those of :func:`.export_task`.
        """
        self._exported = self._early.submit(
            export_task,
            self._folder / "exported.plan",
            schedule=self._schedule,
            signing_key=signing_key,
            seed=self._arms.seed,
            encoding=encoding,
            runtimes=runtimes,
            asks=asks,
        )
        # The plan is waited for, and what follows is not: it gets what others leave over.
        self._early.step_back()
        if self.compares:
            self._arm = self._early.submit_talking(
                train_in_process,
                self._table,
                self._training,
                self._arms,
                stores=self._stores,
                folder=self._folder / "in-process",
            )

    def plan(self) -> Plan:
        """Wait for the plan."""
        return Plan.load(self._exported.result(), trusted_keys=[self._arms.plan_key])

    def begin(self, unprotected: Plan, learned: Learned | None) -> None:
        """Begin the arm without noise, or else the central models."""
        if not self.compares:
            self._train_centrally(learned)
        elif not (letter := self._folder / "unprotected.plan").exists():
            letter.write_bytes(unprotected.data)
            self._early.send(letter)

    def go_on_alone(
        self, plan: Plan, unprotected: Plan, learned: Learned | None, *, deployment: LocalDeployment
    ) -> None:
        """Do all the rest, at the usual priority: the main arm is over."""
        self.begin(unprotected, learned)
        # Not before: these devices ask the back end that the main arm's devices wait for.
        self._prepared = self._late.submit(
            _prepare_held_out,
            self._stores,
            self._folder / "held-out",
            self._held_out,
            plan=plan.data,
            plan_key=self._arms.plan_key,
            url=deployment.url,
            enrolment_key=deployment.enrolment_key,
        )
        self._train_centrally(learned)
        self._early.hurry()
        self._late.hurry()

    def _train_centrally(self, learned: Learned | None) -> None:
        if self._central is None:
            self._central = self._late.submit(
                train_centrally,
                self._table,
                self._training,
                self._held_out,
                schedule=self._schedule,
                learned=learned,
                simulate=self.compares,
                seed=self._arms.seed,
            )

    def held_out(self, plan: Plan) -> HeldOutDevices:
        """Wait for the held-out devices."""
        return HeldOutDevices(self._prepared.result(), plan=plan)

    def arm(self, advance: Advance) -> Arm | None:
        """Wait for the arm without noise and show how far it has come; None if there is none."""
        return None if self._arm is None else self._early.result(self._arm, advance)

    def central(self) -> CentralTraining:
        """Wait for what is trained centrally."""
        if self._central is None:
            raise RuntimeError("nothing was begun")
        return self._central.result()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stack.__exit__(kind, error, traceback)


def _prepare_held_out(
    stores: Path,
    copies: Path,
    aircraft: Sequence[str],
    *,
    plan: bytes,
    plan_key: str,
    url: str,
    enrolment_key: str,
) -> HeldOutFlights:
    copy_stores(stores, copies, aircraft)
    return prepare_held_out(
        copies, aircraft, plan=plan, plan_key=plan_key, url=url, enrolment_key=enrolment_key
    )
