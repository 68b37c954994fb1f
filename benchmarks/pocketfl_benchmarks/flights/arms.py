"""Arms of the demo: the same training, with noise over HTTP or without it in one process."""

from __future__ import annotations

import contextlib
import secrets
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pocketfl.plan import Plan
from pocketfl.plan.manifest import RuntimeName
from pocketfl_benchmarks.flights.background import Advance, Talk
from pocketfl_benchmarks.flights.data import FlightTable
from pocketfl_benchmarks.flights.fleet import Fleet, InProcessLine, Line, raise_file_limit
from pocketfl_benchmarks.flights.results import Arm
from pocketfl_benchmarks.flights.stores import FRESH_FROM, copy_stores, server_rows
from pocketfl_benchmarks.flights.task import OPTIMIZER
from pocketfl_server.back_end import BackEnd
from pocketfl_server.records import TaskRecord
from pocketfl_server.trusted.aggregator import Aggregator

THREADS: Final = 1
"""Devices at work at a time."""
ENROLMENT_THREADS: Final = 4
"""Devices that enrol at a time: the back end makes tokens durable for several at once."""


@dataclass(frozen=True, kw_only=True)
class ArmSettings:
    """How every arm of a run trains.

    Attributes
    ----------
    plan_key : str
        The modeller's public key.
    runtime : {"onnxruntime", "executorch"}
        Which mobile runtime trains.
    rounds : int
        How many.
    seed : int
        Of the choice and order of training examples.
    """

    plan_key: str
    runtime: RuntimeName
    rounds: int
    seed: int


def open_fleet(
    copies: Path,
    aircraft: Sequence[str],
    settings: ArmSettings,
    *,
    line: Line,
    allow_unprotected: bool,
    progress: Advance | None = None,
) -> Fleet:
    """Open the devices that take part in tasks of one back end.

    Parameters
    ----------
    copies : Path
        Their stores, which they may write to.
    aircraft : sequence of str
        Who they are.
    settings : ArmSettings
        What all arms share.
    line : Line
        How they reach the back end.
    allow_unprotected : bool
        Whether they take part without differential privacy.
    progress : callable, optional
        Told how many more devices are open.
    """
    return Fleet(
        copies,
        aircraft,
        line=line,
        plan_key=settings.plan_key,
        runtime=settings.runtime,
        allow_unprotected=allow_unprotected,
        seed=settings.seed,
        progress=progress,
    )


def make_task(plan: Plan, *, line: Line) -> TaskRecord:
    """Make the task of an arm, whose devices believe its trusted tier."""
    task = line.operator.create_task(plan.manifest.name, plan.data, optimizer=OPTIMIZER)
    line.believe(task)
    return task


def train_arm(
    task: TaskRecord,
    settings: ArmSettings,
    *,
    line: Line,
    fleet: Fleet,
    advance: Advance,
    quiet_rounds: int | None = None,
    company: Callable[[], None] | None = None,
) -> Arm:
    """Run all rounds of one arm; its quality is judged later.

    Parameters
    ----------
    task : TaskRecord
        What to run the rounds of.
    settings : ArmSettings
        What all arms share.
    line : Line
        How devices reach the back end.
    fleet : Fleet
        Who trains; enrolled.
    advance : callable
        Told how many more devices have had their turn.
    quiet_rounds : int, optional
        After how many rounds something else may begin to run; all by default.
    company : callable, optional
        Begins it.

    Returns
    -------
    Arm
        Rounds, models, and what they cost.
    """
    began = time.perf_counter()
    quiet = settings.rounds if quiet_rounds is None else quiet_rounds
    rounds = []
    for number in range(settings.rounds):
        if number == quiet and company is not None:
            company()
        rounds.append(fleet.run_round(task.name, threads=THREADS, progress=advance))
    versions = [
        line.operator.model_parameters(task.name, model.version)
        for model in line.operator.models(task.name)
    ]
    standing = line.operator.privacy(task.name)
    return Arm(
        rounds=rounds,
        versions=versions,
        spent=standing.spent,
        budget=standing.budget,
        transport=line.name,
        wall_seconds=time.perf_counter() - began,
        quiet_rounds=quiet,
    )


def train_in_process(
    talk: Talk,
    table: FlightTable,
    aircraft: Sequence[str],
    settings: ArmSettings,
    *,
    stores: Path,
    folder: Path,
) -> Arm:
    """Train one arm with devices, back end and trusted tier in this process.

    Everything is made ready before the plan comes.

    Parameters
    ----------
    talk : Talk
        Brings the plan, and is told how many more devices have had their turn.
    table : FlightTable
        All flights.
    aircraft : sequence of str
        Who trains.
    settings : ArmSettings
        What all arms share.
    stores : Path
        Folder of all stores; copied.
    folder : Path
        Where to work; made.

    Returns
    -------
    Arm
        As :func:`train_arm`.
    """
    raise_file_limit(len(aircraft))
    folder.mkdir()
    copies = folder / "devices"
    copy_stores(stores, copies, aircraft)
    with _in_process(folder, plan_key=settings.plan_key) as line:
        line.put_features(server_rows(table, since=FRESH_FROM))
        with open_fleet(copies, aircraft, settings, line=line, allow_unprotected=True) as fleet:
            fleet.enrol(threads=ENROLMENT_THREADS)
            plan = Plan.load(talk.receive(), trusted_keys=[settings.plan_key])
            task = make_task(plan, line=line)
            arm = train_arm(task, settings, line=line, fleet=fleet, advance=talk.advance)
    shutil.rmtree(copies)
    return arm


@contextlib.contextmanager
def _in_process(folder: Path, *, plan_key: str) -> Iterator[InProcessLine]:
    """Run a second back end with a trusted tier of its own in this process."""
    enrolment_key = secrets.token_urlsafe(32)
    with (
        Aggregator(folder / "ledger.db", plan_keys=[plan_key]) as trusted,
        BackEnd(
            f"sqlite:///{folder / 'back_end.db'}",
            trusted=trusted,
            plan_keys=[plan_key],
            enrolment_key=enrolment_key,
        ) as back_end,
    ):
        yield InProcessLine(back_end, enrolment_key=enrolment_key)
