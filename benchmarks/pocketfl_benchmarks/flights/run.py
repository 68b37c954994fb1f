"""The demo from the archive to the figures; :mod:`.command` puts a command line in front of it."""

from __future__ import annotations

import contextlib
import multiprocessing
import secrets
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from pocketfl.errors import PocketFLError
from pocketfl.plan import EncodingSpec, Plan, generate_signing_key, public_key_hex
from pocketfl.plan.manifest import RuntimeName
from pocketfl.protocol import FeatureRow
from pocketfl_benchmarks.flights.baselines import train_baselines
from pocketfl_benchmarks.flights.bought import SimulatedArm, simulate_arms
from pocketfl_benchmarks.flights.data import FlightTable, is_held_out
from pocketfl_benchmarks.flights.evaluation import HeldOutDevices, prepare_held_out
from pocketfl_benchmarks.flights.fleet import (
    ROUND_SECONDS,
    Fleet,
    HttpLine,
    InProcessLine,
    Line,
    raise_file_limit,
)
from pocketfl_benchmarks.flights.footprint import Footprint, measure_footprint
from pocketfl_benchmarks.flights.results import NO_PRIVACY, Arm, DemoResult, JudgedArm
from pocketfl_benchmarks.flights.statistics import Learned, export_statistics, learn
from pocketfl_benchmarks.flights.stores import (
    FRESH_FROM,
    copy_stores,
    fleet_vault,
    prepare_stores,
    server_rows,
    store_path,
)
from pocketfl_benchmarks.flights.task import (
    BUDGET,
    COHORT,
    FEATURES,
    OPTIMIZER,
    ROUNDS,
    Schedule,
    export_task,
    for_one_device,
    without_privacy,
)
from pocketfl_server.back_end import BackEnd
from pocketfl_server.local import LocalDeployment
from pocketfl_server.trusted.aggregator import Aggregator

THREADS: Final = 1
"""Devices at work at a time."""
ENROLMENT_THREADS: Final = 4
"""Devices that enrol at a time: the back end makes tokens durable for several at once."""


class DemoError(PocketFLError):
    """The demo was asked for something that it cannot do."""


Advance = Callable[[int], None]
"""Told by how much a stage has come forward."""


class Stages(Protocol):
    """Shows how far the demo has come."""

    def stage(self, name: str, total: int | None = None) -> AbstractContextManager[Advance]:
        """Show a stage while the block runs."""


@dataclass(frozen=True, kw_only=True)
class DemoSettings:
    """What the command line chooses.

    Attributes
    ----------
    runtime : {"onnxruntime", "executorch"}
        Which mobile runtime trains and scores.
    rounds, cohort : int
        How long and how widely; noise and floor follow from them.
    seed : int
        Of initial weights, batches and baselines; never of coins or noise.
    private, unprotected : bool
        Which arms to run; at least one.
    encoding : EncodingSpec or None
        Of the reports of all arms.
    """

    runtime: RuntimeName = "onnxruntime"
    rounds: int = ROUNDS
    cohort: int = COHORT
    seed: int = 0
    private: bool = True
    unprotected: bool = True
    encoding: EncodingSpec | None = None

    def __post_init__(self) -> None:
        if not (self.private or self.unprotected):
            raise DemoError("nothing to run: leave out --no-dp or --no-comparison")


def run_demo(
    table: FlightTable,
    settings: DemoSettings,
    *,
    cache: Path,
    stages: Stages,
    began: float | None = None,
) -> DemoResult:
    """Train privately, without noise, and centrally; compare.

    Parameters
    ----------
    table : FlightTable
        All flights.
    settings : DemoSettings
        What to run.
    cache : Path
        Keeps the stores between runs.
    stages : Stages
        Shows progress.
    began : float, optional
        ``time.perf_counter()`` of the start, if that was before this call.

    Returns
    -------
    DemoResult
        Everything that was found.

    Raises
    ------
    DemoError
        If rounds or cohort do not fit the fleet.
    """
    began = time.perf_counter() if began is None else began
    torch.set_num_threads(1)
    training = [name for name in table.aircraft if not is_held_out(name)]
    held_out = [name for name in table.aircraft if is_held_out(name)]
    if not training or not held_out:
        raise DemoError("the data leave no aircraft on one side of the split")
    try:
        schedule = Schedule(
            rounds=settings.rounds, cohort=settings.cohort, population=len(training)
        )
    except ValueError as error:
        raise DemoError(str(error)) from None
    raise_file_limit(len(training))
    with stages.stage("Fill example stores", len(table.aircraft)) as advance:
        stores = prepare_stores(table, cache, progress=advance)
    with (
        tempfile.TemporaryDirectory(prefix="pocketfl-demo-") as folder,
        contextlib.ExitStack() as stack,
    ):
        key = generate_signing_key()
        with stages.stage("Start back end and trusted tier"):
            deployment = stack.enter_context(
                LocalDeployment(Path(folder, "deployment"), plan_keys=[public_key_hex(key)])
            )
            http = stack.enter_context(contextlib.closing(HttpLine(deployment)))
            fresh = server_rows(table, since=FRESH_FROM)
            http.put_features(fresh)
        place = _Place(
            folder=Path(folder), stores=stores, plan_key=public_key_hex(key), stages=stages
        )
        copies = place.copy_stores("devices")
        learned: Learned | None = None
        if settings.private:
            learned = _ask(training, settings, line=http, place=place, copies=copies, key=key)
        with stages.stage("Export the model and check parity"):
            plan = export_task(
                Path(folder, "flights.plan"),
                schedule=schedule,
                signing_key=key,
                seed=settings.seed,
                encoding=settings.encoding,
                learned=learned,
            )
            unprotected = without_privacy(plan, signing_key=key)
        with stages.stage("Measure one device alone"):
            alone = for_one_device(plan, signing_key=key)
            footprint = _measure(deployment, alone, place, aircraft=_busiest(table, training))
        main = _train(
            plan if settings.private else unprotected,
            training,
            settings,
            line=http,
            place=place,
            copies=copies,
        )
        other: Arm | None = None
        bought: list[SimulatedArm] = []
        copies = place.copy_stores("held-out")
        with _another_process() as process:
            # Not while the private arm runs: its device times should be those of a machine that does
            # nothing else.
            baselines = process.submit(
                train_baselines,
                table,
                training,
                seed=settings.seed,
                spec=plan.manifest.features,
            )
            prepared = process.submit(
                prepare_held_out,
                copies,
                held_out,
                plan=plan.data,
                plan_key=place.plan_key,
                url=deployment.url,
                enrolment_key=deployment.enrolment_key,
            )
            if learned is not None and settings.unprotected:
                simulated = process.submit(
                    simulate_arms,
                    table,
                    training,
                    held_out,
                    schedule=schedule,
                    learned=learned,
                    seed=settings.seed,
                )
                with _in_process(place, fresh) as line:
                    other = _train(
                        unprotected,
                        training,
                        settings,
                        line=line,
                        place=place,
                        copies=place.copy_stores("unprotected"),
                    )
                with stages.stage("Train without what was learned, simulated"):
                    bought = simulated.result()
            with stages.stage("Train the centralised models"):
                server_only, server_trained = baselines.result()
            with stages.stage("Prepare the held-out devices"):
                evaluation = HeldOutDevices(prepared.result(), plan=plan)
        shutil.rmtree(copies)
    private, federated = (main, other) if settings.private else (None, main)
    with stages.stage("Score the held-out devices"):
        return DemoResult(
            runtime=settings.runtime,
            seed=settings.seed,
            training_devices=len(training),
            held_out_devices=evaluation.devices,
            training_flights=server_trained.flights,
            held_out_flights=evaluation.flights,
            late_share=table.late_share,
            aggregation=plan.manifest.aggregation,
            private=_judge(private, evaluation, settings),
            federated=_judge(federated, evaluation, settings),
            server_only=evaluation.auc_of(server_only.score),
            server_trained=evaluation.auc_of(server_trained.score),
            footprint=footprint,
            parameters=plan.manifest.required_model.parameter_count,
            plan_bytes=len(plan.data),
            learned=learned,
            bought=bought,
            wall_seconds=time.perf_counter() - began,
        )


@dataclass(frozen=True, kw_only=True)
class _Place:
    """Where a run happens."""

    folder: Path
    stores: Path
    plan_key: str
    stages: Stages

    def copy_stores(self, name: str) -> Path:
        """Return a fresh copy of all stores."""
        copies = self.folder / name
        copy_stores(self.stores, copies)
        return copies


def _busiest(table: FlightTable, aircraft: list[str]) -> str:
    spans = table.spans
    return max(aircraft, key=lambda name: spans[name].stop - spans[name].start)


def _measure(deployment: LocalDeployment, plan: Plan, place: _Place, *, aircraft: str) -> Footprint:
    """Return the memory of the device with most examples, in a round of its own."""
    task = deployment.operator.create_task(plan.manifest.name, plan.data, optimizer=OPTIMIZER)
    notice = deployment.operator.open_round(task.name, seconds=ROUND_SECONDS)
    store = place.folder / "alone.sqlite"
    shutil.copyfile(store_path(place.stores, aircraft), store)
    # This device is alone, with its key where every app has it: beside the store.
    shutil.copyfile(fleet_vault(place.stores).path, store.with_name(store.name + "-key"))
    footprint = measure_footprint(
        store,
        url=deployment.url,
        plan_key=place.plan_key,
        attestation_key=deployment.attestation_key,
        enrolment_key=deployment.enrolment_key,
        user=aircraft,
        task=task.name,
    )
    deployment.operator.close_round(task.name, notice.round)
    return footprint


def _another_process() -> ProcessPoolExecutor:
    """Return a process that works beside this one."""
    return ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))


@contextlib.contextmanager
def _in_process(place: _Place, features: dict[str, list[FeatureRow]]) -> Iterator[InProcessLine]:
    """Run a second back end with a trusted tier of its own in this process."""
    folder = place.folder / "in-process"
    folder.mkdir()
    keys = [place.plan_key]
    enrolment_key = secrets.token_urlsafe(32)
    with (
        Aggregator(folder / "ledger.db", plan_keys=keys) as trusted,
        BackEnd(
            f"sqlite:///{folder / 'back_end.db'}",
            trusted=trusted,
            plan_keys=keys,
            enrolment_key=enrolment_key,
        ) as back_end,
    ):
        line = InProcessLine(back_end, enrolment_key=enrolment_key)
        line.put_features(features)
        yield line


def _ask(
    aircraft: list[str],
    settings: DemoSettings,
    *,
    line: Line,
    place: _Place,
    copies: Path,
    key: Ed25519PrivateKey,
) -> Learned:
    """Ask the training devices for ranges and classes, in one private release."""
    plan = export_statistics(
        place.folder / "statistics.plan",
        features=FEATURES,
        population=len(aircraft),
        budget=BUDGET,
        signing_key=key,
    )
    task = line.operator.create_task(plan.manifest.name, plan.data)
    with (
        place.stages.stage("Ask the devices for ranges and classes", len(aircraft)) as advance,
        Fleet(
            copies,
            aircraft,
            line=line,
            plan_key=place.plan_key,
            aggregator=line.aggregator(task.aggregator.public_key),
            runtime=settings.runtime,
            seed=settings.seed,
        ) as fleet,
    ):
        fleet.enrol(threads=ENROLMENT_THREADS)
        return learn(fleet.ask(task.name, threads=THREADS, progress=advance), features=FEATURES)


def _train(
    plan: Plan,
    aircraft: list[str],
    settings: DemoSettings,
    *,
    line: Line,
    place: _Place,
    copies: Path,
) -> Arm:
    """Run all rounds of one arm; its quality is judged later."""
    began = time.perf_counter()
    unprotected = plan.manifest.privacy == "none"
    label = f"Federated rounds, {NO_PRIVACY}" if unprotected else "Private federated rounds"
    task = line.operator.create_task(plan.manifest.name, plan.data, optimizer=OPTIMIZER)
    with place.stages.stage(label, settings.rounds * len(aircraft)) as advance:
        with Fleet(
            copies,
            aircraft,
            line=line,
            plan_key=place.plan_key,
            aggregator=line.aggregator(task.aggregator.public_key),
            runtime=settings.runtime,
            allow_unprotected=unprotected,
            seed=settings.seed,
        ) as fleet:
            fleet.enrol(threads=ENROLMENT_THREADS)
            rounds = [
                fleet.run_round(task.name, threads=THREADS, progress=advance)
                for _ in range(settings.rounds)
            ]
        versions = [
            line.operator.model_parameters(task.name, model.version)
            for model in line.operator.models(task.name)
        ]
    shutil.rmtree(copies)
    standing = line.operator.privacy(task.name)
    return Arm(
        rounds=rounds,
        versions=versions,
        spent=standing.spent,
        budget=standing.budget,
        transport=line.name,
        wall_seconds=time.perf_counter() - began,
    )


def _judge(arm: Arm | None, evaluation: HeldOutDevices, settings: DemoSettings) -> JudgedArm | None:
    if arm is None:
        return None
    return JudgedArm(
        arm=arm,
        auc=evaluation.auc(arm.versions[-1], runtime=settings.runtime),
        curve=evaluation.curve(arm.versions),
    )
