"""One device of the month: what trains is made up, what decides is the SDK's own."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from pocketfl.budgets import NOTHING, Amounts, Budgets, EnergyModel, Limits, agreed_budgets
from pocketfl.conditions import ConditionSpec, SignalProvider, check_conditions
from pocketfl.database import Database
from pocketfl.device import RoundOutcome
from pocketfl.device.outcome import RoundStatus
from pocketfl.ledger import Ledger, Refusal
from pocketfl.reasons import Reason, combined_retry
from pocketfl_benchmarks.life.habits import DAY, HOUR
from pocketfl_benchmarks.life.server import PacedServer

CONDITIONS: Final = ConditionSpec(
    min_battery_level=0.3, require_charging=True, require_unmetered=True, refuse_power_save=True
)
"""What many apps ask for: on the charger, on the home's network, not hot."""
BUDGETS: Final = agreed_budgets(
    app=Budgets(
        per_round=Limits(cpu_seconds=24.0, joules=72.0),
        per_day=Limits(cpu_seconds=30.0, joules=90.0, contributions=1),
        per_month=Limits(cpu_seconds=360.0, joules=1080.0, contributions=28),
        min_separation_seconds=8 * HOUR,
        max_epsilon_per_year=12.0,
        delta=1e-6,
    )
)
NOISE_MULTIPLIER: Final = 4.0
STEP_SECONDS: Final = 4.0
"""Processor time on the middle phone after which conditions and budgets are looked at again."""
NEEDS: Final = Amounts(contributions=1, cpu_seconds=1.0, bytes_up=30_000)
_ENERGY: Final = EnergyModel()


@dataclass(frozen=True, kw_only=True)
class Session:
    """What a session used, written down apart from the ledger, so that the ledger can be judged.

    Attributes
    ----------
    ended_at : float
        Virtual Unix time in seconds.
    task : str
        Whose round.
    cpu_seconds, joules : float
        What it used.
    sent : bool
        Whether it contributed.
    """

    ended_at: float
    task: str
    cpu_seconds: float
    joules: float
    sent: bool


@dataclass
class MadeUpDevice:
    """What a scheduler runs.

    Attributes
    ----------
    name : str
        Of the device.
    sessions : list of Session
        All of its sessions, in order.
    refusals : list of str
        Name of every condition that stood in the way of a try.
    """

    name: str
    database: Database
    signals: SignalProvider
    server: PacedServer
    clock: Callable[[], float]
    spend_time: Callable[[float], None]
    random: random.Random
    sessions: list[Session] = field(default_factory=list)
    refusals: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.ledger = Ledger(self.database, clock=self.clock)
        self._reported: dict[str, int] = {}
        self._pace = self.random.lognormvariate(0.0, 0.4)

    def run_once(self, *, task: str | None = None) -> RoundOutcome:
        """Take part in today's round of a task, if everything speaks for it."""
        if task is None:
            raise ValueError("the month's tasks have names")
        now, number = self.clock(), int(self.clock() // DAY)
        if self._reported.get(task) == number:
            # A round's notice says until when it is open; nobody needs to be there at the stroke.
            until = DAY - now % DAY + self.random.uniform(0, 4 * HOUR)
            return _outcome("no_round", "already_reported", task, "reported already", until)
        reasons = check_conditions(self.signals, CONDITIONS, now=now)
        code = "conditions"
        if not reasons:
            code = "budget"
            reasons = self.ledger.check(
                task=task,
                round=number,
                needs=NEEDS,
                budgets=BUDGETS,
                noise_multiplier=NOISE_MULTIPLIER,
            )
        if reasons:
            self.refusals += [reason.condition for reason in reasons]
            why = "; ".join(map(str, reasons))
            return _outcome("ineligible", code, task, why, self._wait(reasons))
        answer = self.server.check_in(now=now)
        if not answer.admitted:
            self.refusals.append(answer.reason)
            wait = self.random.uniform(*answer.window)
            return _outcome("turned_away", answer.reason, task, answer.reason, wait)
        return self._train(task, number)

    def _train(self, task: str, number: int) -> RoundOutcome:
        stride = self._batch()
        reservation = self.ledger.reserve(
            task=task,
            round=number,
            needs=NEEDS,
            budgets=BUDGETS,
            stride=stride,
            noise_multiplier=NOISE_MULTIPLIER,
        )
        if isinstance(reservation, Refusal):
            wait = reservation.retry_seconds
            return _outcome("ineligible", "budget", task, str(reservation), wait)
        used_seconds = joules = 0.0
        stopped = ""
        for left in reversed(range(self.random.randint(1, 4))):
            self.spend_time(stride.wall_seconds)
            used_seconds, joules = used_seconds + stride.cpu_seconds, joules + stride.joules
            broken = check_conditions(self.signals, CONDITIONS, now=self.clock())
            if left == 0 and not broken:
                break
            over = self.ledger.spend(reservation, stride)
            if over is not None or broken:
                stopped = "; ".join(map(str, broken or (over,)))
                break
        self.ledger.settle(
            reservation,
            outcome="unsent" if stopped else "sent",
            amounts=NOTHING if stopped else stride,
        )
        if not stopped:
            self._reported[task] = number
        self.sessions.append(
            Session(
                ended_at=self.clock(),
                task=task,
                cpu_seconds=used_seconds,
                joules=joules,
                sent=not stopped,
            )
        )
        if stopped:
            return _outcome("interrupted", "stopped", task, stopped, None)
        return _outcome("completed", "reported", task, "the report was uploaded", None)

    def _wait(self, reasons: tuple[Reason, ...]) -> float | None:
        window = combined_retry(reasons)
        return None if window is None else self.random.uniform(*window)

    def _batch(self) -> Amounts:
        seconds = STEP_SECONDS * self._pace
        return Amounts(
            cpu_seconds=seconds, wall_seconds=seconds, joules=_ENERGY.joules(cpu_seconds=seconds)
        )


def _outcome(
    status: RoundStatus, code: str, task: str, reason: str, seconds: float | None
) -> RoundOutcome:
    return RoundOutcome(status=status, code=code, reason=reason, task=task, retry_after=seconds)
