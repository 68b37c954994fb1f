"""The demo from the archive to the figures; :mod:`.command` puts a command line in front of it."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, Protocol

import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from pocketfl.errors import PocketFLError
from pocketfl.plan import EncodingSpec, Plan, generate_signing_key, public_key_hex
from pocketfl.plan.manifest import RUNTIME_NAMES, RuntimeName
from pocketfl_benchmarks.flights.arms import (
    ENROLMENT_THREADS,
    THREADS,
    ArmSettings,
    make_task,
    open_fleet,
    train_arm,
)
from pocketfl_benchmarks.flights.background import Advance
from pocketfl_benchmarks.flights.beside import Beside
from pocketfl_benchmarks.flights.data import FlightTable, is_held_out
from pocketfl_benchmarks.flights.evaluation import HeldOutDevices
from pocketfl_benchmarks.flights.fleet import (
    ROUND_SECONDS,
    Fleet,
    HttpLine,
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
    for_one_device,
    with_learned,
    without_privacy,
)
from pocketfl_server.local import LocalDeployment
from pocketfl_server.records import TaskRecord

_UNPROTECTED_ROUNDS: Final = f"Federated rounds, {NO_PRIVACY}"
_QUIET_PART: Final = 4
"""One round in so many has the machine for itself: the first ones."""


class DemoError(PocketFLError):
    """The demo was asked for something that it cannot do."""


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
        place = _Place(
            folder=Path(folder), stores=stores, plan_key=public_key_hex(key), stages=stages
        )
        arms = ArmSettings(
            plan_key=place.plan_key,
            runtime=settings.runtime,
            rounds=settings.rounds,
            seed=settings.seed,
        )
        beside = stack.enter_context(
            Beside(
                table,
                training,
                held_out,
                schedule=schedule,
                arms=arms,
                stores=stores,
                folder=place.folder,
                compares=settings.private and settings.unprotected,
            )
        )
        beside.export(
            signing_key=key.private_bytes_raw(),
            encoding=settings.encoding,
            runtimes=RUNTIME_NAMES,
            asks=settings.private,
        )
        with (
            stages.stage("Start back end and trusted tier"),
            ThreadPoolExecutor(1) as copying,
        ):
            copied = copying.submit(copy_stores, stores, place.folder / "devices", training)
            deployment = stack.enter_context(
                LocalDeployment(place.folder / "deployment", plan_keys=[place.plan_key])
            )
            http = stack.enter_context(contextlib.closing(HttpLine(deployment)))
            http.put_features(server_rows(table, since=FRESH_FROM))
            copied.result()
        aboard = stack.enter_context(contextlib.ExitStack())
        with stages.stage("Open the devices", len(training)) as advance:
            fleet = aboard.enter_context(
                open_fleet(
                    place.folder / "devices",
                    training,
                    arms,
                    line=http,
                    allow_unprotected=not settings.private,
                    progress=advance,
                )
            )
        with stages.stage("Enrol the devices", len(training)) as advance:
            fleet.enrol(threads=ENROLMENT_THREADS, progress=advance)
        learned: Learned | None = None
        if settings.private:
            learned = _ask(fleet, len(training), line=http, place=place, key=key)
        with stages.stage("Export the model and check parity"):
            plan = beside.plan()
            if learned is not None:
                plan = with_learned(plan, learned, signing_key=key)
            unprotected = without_privacy(plan, signing_key=key)
        made = make_task(plan if settings.private else unprotected, line=http)
        with stages.stage("Measure one device alone"), _pricing(http, made):
            alone = for_one_device(plan, signing_key=key)
            footprint = _measure(deployment, alone, place, aircraft=_busiest(table, training))
        turns = settings.rounds * len(training)
        label = "Private federated rounds" if settings.private else _UNPROTECTED_ROUNDS
        with stages.stage(label, turns) as advance:
            main = train_arm(
                made,
                arms,
                line=http,
                fleet=fleet,
                advance=advance,
                # Device times are to be those of a machine that does nothing else.
                quiet_rounds=-(-settings.rounds // _QUIET_PART),
                company=partial(beside.begin, unprotected, learned),
            )
        beside.go_on_alone(plan, unprotected, learned, deployment=deployment)
        aboard.close()
        shutil.rmtree(place.folder / "devices")
        with stages.stage("Prepare the held-out devices"):
            evaluation = beside.held_out(plan)
        with stages.stage("Score the models of these rounds"):
            judged = _judge(main, evaluation, settings)
        other: JudgedArm | None = None
        if settings.private and settings.unprotected:
            with stages.stage(_UNPROTECTED_ROUNDS, turns) as advance:
                arm = beside.arm(advance)
            with stages.stage("Score the models without noise"):
                other = _judge(arm, evaluation, settings)
        simulated = " and the simulated" if beside.compares else ""
        with stages.stage(f"Train the centralised{simulated} models"):
            central = beside.central()
    private, federated = (judged, other) if settings.private else (None, judged)
    with stages.stage("Score the centralised models"):
        return DemoResult(
            runtime=settings.runtime,
            seed=settings.seed,
            training_devices=len(training),
            held_out_devices=evaluation.devices,
            training_flights=central.server_trained.flights,
            held_out_flights=evaluation.flights,
            late_share=table.late_share,
            aggregation=plan.manifest.aggregation,
            private=private,
            federated=federated,
            server_only=evaluation.auc_of(central.server_only.score),
            server_trained=evaluation.auc_of(central.server_trained.score),
            footprint=footprint,
            parameters=plan.manifest.required_model.parameter_count,
            plan_bytes=len(plan.data),
            learned=learned,
            bought=central.bought,
            wall_seconds=time.perf_counter() - began,
        )


@dataclass(frozen=True, kw_only=True)
class _Place:
    """Where a run happens."""

    folder: Path
    stores: Path
    plan_key: str
    stages: Stages


def _busiest(table: FlightTable, aircraft: list[str]) -> str:
    spans = table.spans
    return max(aircraft, key=lambda name: spans[name].stop - spans[name].start)


def _measure(deployment: LocalDeployment, plan: Plan, place: _Place, *, aircraft: str) -> Footprint:
    """Return the memory of the device with most examples, in a round of its own."""
    made = deployment.operator.create_task(plan.manifest.name, plan.data, optimizer=OPTIMIZER)
    notice = deployment.operator.open_round(made.name, seconds=ROUND_SECONDS)
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
        task=made.name,
    )
    deployment.operator.close_round(made.name, notice.round)
    return footprint


def _ask(
    fleet: Fleet, population: int, *, line: Line, place: _Place, key: Ed25519PrivateKey
) -> Learned:
    """Ask the training devices for ranges and classes, in one private release."""
    plan = export_statistics(
        place.folder / "statistics.plan",
        features=FEATURES,
        population=population,
        budget=BUDGET,
        signing_key=key,
    )
    made = line.operator.create_task(plan.manifest.name, plan.data)
    line.believe(made)
    with (
        place.stages.stage("Ask the devices for ranges and classes", population) as advance,
        _pricing(line, made),
    ):
        return learn(fleet.ask(made.name, threads=THREADS, progress=advance), features=FEATURES)


@contextlib.contextmanager
def _pricing(line: Line, made: TaskRecord) -> Iterator[None]:
    """Ask beside the block what a release of a task spends, which the first one would wait for."""
    with ThreadPoolExecutor(1) as asking:
        asked = asking.submit(line.operator.privacy, made.name)
        yield
        asked.result()


def _judge(arm: Arm | None, evaluation: HeldOutDevices, settings: DemoSettings) -> JudgedArm | None:
    if arm is None:
        return None
    return JudgedArm(
        arm=arm,
        auc=evaluation.auc(arm.versions[-1], runtime=settings.runtime),
        curve=evaluation.curve(arm.versions),
    )
