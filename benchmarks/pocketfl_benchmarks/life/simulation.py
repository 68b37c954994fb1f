"""Runs the month: one queue of next tries per process, and a verdict that does not ask the ledger."""

from __future__ import annotations

import heapq
import multiprocessing
import os
import random
import tempfile
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import numpy as np

from pocketfl.conditions import ScriptedSignals
from pocketfl.database import Database
from pocketfl.scheduling import Scheduler
from pocketfl_benchmarks.life.device import BUDGETS, MadeUpDevice, Session
from pocketfl_benchmarks.life.habits import DAY, HOUR, draw_habits, script
from pocketfl_benchmarks.life.server import SLOT, PacedServer

TASKS: Final = ("keyboard", "photos")
BEGAN: Final = 1_700_006_400.0
"""Unix time of the month's first midnight (UTC), any will do."""
_TOLERANCE: Final = 1e-6
MEMORY: Final = Path("/dev/shm")  # noqa: S108 - a file system in memory, where there is one


@dataclass(frozen=True, kw_only=True)
class MonthSettings:
    """How large a fleet, for how long.

    Attributes
    ----------
    devices, days : int
        How many of each.
    places_per_hour : int
        Places that the server gives away per hour, for the whole fleet and all tasks.
    seed : int
        Of habits, waits and training times.
    """

    devices: int = 1000
    days: int = 30
    places_per_hour: int = 100
    seed: int = 0


@dataclass
class Month:
    """What came of it.

    Attributes
    ----------
    sessions : dict of str to list of Session
        By device.
    refusals : Counter of str
        What stood in the way, and how often.
    asked, admitted : Counter of int
        Check-ins and places by quarter of an hour.
    tries, idle : int
        Tries of a task, and wake-ups at the time that a scheduler had named at which it did nothing.
    seconds : float
        Wall time.
    """

    sessions: dict[str, list[Session]] = field(default_factory=dict)
    refusals: Counter[str] = field(default_factory=Counter)
    asked: Counter[int] = field(default_factory=Counter)
    admitted: Counter[int] = field(default_factory=Counter)
    tries: int = 0
    idle: int = 0
    seconds: float = 0.0

    def add(self, other: Month) -> None:
        """Take in what another process found."""
        self.sessions |= other.sessions
        self.refusals += other.refusals
        self.asked += other.asked
        self.admitted += other.admitted
        self.tries += other.tries
        self.idle += other.idle


def run_month(settings: MonthSettings) -> Month:
    """Live the month, on every core of the machine."""
    began = time.perf_counter()
    workers = min(len(os.sched_getaffinity(0)), settings.devices)
    shares = [range(start, settings.devices, workers) for start in range(workers)]
    month = Month()
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        for part in pool.map(_run_part, [settings] * workers, shares):
            month.add(part)
    month.seconds = time.perf_counter() - began
    return month


class _Clock:
    """The virtual time, which the device at work moves on."""

    def __init__(self, now: float) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def spend(self, seconds: float) -> None:
        self.now += seconds


def _run_part(settings: MonthSettings, numbers: range) -> Month:
    """Live the month of some of the devices."""
    month = Month()
    clock = _Clock(BEGAN)
    share = len(numbers) / settings.devices
    places = max(1, round(settings.places_per_hour * share * SLOT / HOUR))
    server = PacedServer(places_per_slot=places)
    ends = BEGAN + settings.days * DAY
    place = str(MEMORY) if MEMORY.is_dir() else None
    with tempfile.TemporaryDirectory(prefix="pocketfl-life-", dir=place) as folder:
        devices: list[MadeUpDevice] = []
        schedulers: list[Scheduler[Any]] = []
        queue: list[tuple[float, int]] = []
        for index, number in enumerate(numbers):
            database = Database(Path(folder, f"{number}.db"), durable=False)
            chance = random.Random(f"{settings.seed}/{number}")  # noqa: S311
            draws = np.random.default_rng((settings.seed, number))
            signals = ScriptedSignals(
                [
                    (BEGAN + second, state)
                    for second, state in script(
                        draw_habits(draws), days=settings.days, random=draws
                    )
                ],
                clock=clock,
            )
            device = MadeUpDevice(
                name=f"phone-{number}",
                database=database,
                signals=signals,
                server=server,
                clock=clock,
                spend_time=clock.spend,
                random=chance,
            )
            devices.append(device)
            schedulers.append(
                Scheduler(
                    device, database=database, tasks=TASKS, clock=clock, uniform=chance.uniform
                )
            )
            # Apps are installed over the first day, not all at once.
            queue.append((BEGAN + chance.uniform(0, DAY), index))
        heapq.heapify(queue)
        while queue and queue[0][0] < ends:
            moment, index = heapq.heappop(queue)
            scheduler = schedulers[index]
            clock.now = moment
            tried = len(scheduler.run_due())
            month.tries += tried
            month.idle += tried == 0
            following = scheduler.next_attempt
            if following is not None:
                # A device's own session moved the clock on; another's begins when it was planned.
                heapq.heappush(queue, (max(following, moment + 1.0), index))
        for device in devices:
            month.sessions[device.name] = device.sessions
            month.refusals.update(device.refusals)
            device.database.close()
        month.asked, month.admitted = server.asked, server.admitted
    return month


def judge_month(month: Month) -> dict[str, Any]:
    """Add up every device's own tally against the limits, without asking a ledger.

    Returns
    -------
    dict
        ``over_budget``: devices that went over any limit by more than one batch. ``highest``: the
        highest use of each limit, as a part of it. ``shortest_separation_hours``: between two
        contributions of one device to one task.
    """
    over = 0
    highest: dict[str, float] = {}
    shortest = float("inf")
    for sessions in month.sessions.values():
        worst: dict[str, float] = {}
        for window, seconds in (("day", DAY), ("month", 30 * DAY)):
            limits = BUDGETS.per_day if window == "day" else BUDGETS.per_month
            for measure in ("cpu_seconds", "joules", "contributions"):
                limit = getattr(limits, measure)
                worst[f"{measure} per {window}"] = _highest_sum(sessions, measure, seconds) / limit
        for task in TASKS:
            sent = [s.ended_at for s in sessions if s.sent and s.task == task]
            shortest = min([shortest, *(b - a for a, b in pairwise(sent))])
        over += any(part > 1 + _TOLERANCE for part in worst.values())
        for name, part in worst.items():
            highest[name] = max(highest.get(name, 0.0), part)
    return {
        "over_budget": over,
        "highest": highest,
        "shortest_separation_hours": shortest / HOUR,
    }


def _highest_sum(sessions: list[Session], measure: str, seconds: float) -> float:
    """Return the most of a measure within any window of so many seconds."""
    highest = held = 0.0
    first = 0
    for session in sessions:
        held += _amount(session, measure)
        while sessions[first].ended_at <= session.ended_at - seconds:
            held -= _amount(sessions[first], measure)
            first += 1
        highest = max(highest, held)
    return highest


def _amount(session: Session, measure: str) -> float:
    return float(session.sent) if measure == "contributions" else getattr(session, measure)
