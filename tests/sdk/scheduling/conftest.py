"""A device whose outcomes are scripted, a clock that a test moves, and a real file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from pocketfl.device import RoundOutcome
from pocketfl.scheduling import Scheduler

NOW = 1_800_000_000.0


@dataclass
class Clock:
    """Unix time that moves only when told to."""

    now: float = NOW

    def __call__(self) -> float:
        return self.now


def outcome(status: str = "no_round", code: str | None = None, **details: object) -> RoundOutcome:
    return RoundOutcome(status=status, code=code or status, reason=f"because {code}", **details)


@dataclass
class ScriptedDevice:
    """Answers with what its test says, by task; what it was asked is on record."""

    answers: dict[str | None, RoundOutcome | Exception] = field(default_factory=dict)
    asked: list[str | None] = field(default_factory=list)
    during: Callable[[], object] = lambda: None

    def run_once(self, *, task: str | None = None) -> RoundOutcome:
        self.asked.append(task)
        self.during()
        answer = self.answers.get(task, outcome())
        if isinstance(answer, Exception):
            raise answer
        return answer


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def device() -> ScriptedDevice:
    return ScriptedDevice()


@pytest.fixture
def open_scheduler(database, device, clock) -> Callable[..., Scheduler[RoundOutcome]]:
    """Makes a scheduler over the test's file, as a new process would; draws the middle of bounds."""

    def make(**changes: object) -> Scheduler[RoundOutcome]:
        settings = {
            "database": database,
            "clock": clock,
            "uniform": lambda low, high: (low + high) / 2,
            **changes,
        }
        return Scheduler(settings.pop("participant", device), **settings)

    return make
