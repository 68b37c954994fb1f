"""What the runs are: every place in turn, the rest by chance, all from one seed."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from tests.chaos.faults import (
    DAMAGE_KINDS,
    NETWORK_KINDS,
    Budget,
    ClockJump,
    Damage,
    DiskFull,
    Faults,
    NetworkFault,
    Point,
    RandomTime,
    Scenario,
    WirePoint,
)

JUMPS: Final = (-400 * 86_400.0, -25 * 3600.0, -90.0, 90.0, 25 * 3600.0, 40 * 86_400.0)
"""Seconds by which a clock is set; a round lasts 20 days."""

SLOW_BATCH_SECONDS: Final = 0.05

# The order in which families come up: a dozen runs have one of each, half of all are kills alone.
_FAMILIES: Final = (
    "phase",
    "network",
    "random",
    "statement",
    "disk",
    "damage",
    "clock",
    "wire",
    "checkpoint",
    "twice",
    "budget",
    "phase",
    "network",
    "random",
    "disk",
    "phase",
    "statement",
    "network",
    "clock",
    "budget",
    "wire",
    "phase",
    "random",
    "wire",
)
FAMILIES: Final = tuple(sorted(set(_FAMILIES)))


@dataclass(frozen=True, kw_only=True)
class Itinerary:
    """What an undisturbed session passes through, as one told.

    Attributes
    ----------
    phases : tuple of str
        Named phases of the round, and ``append``.
    requests : tuple of str
        Kinds of requests.
    statements, batches, checkpoints : int
        How many of each.
    seconds : float
        How long it took.
    """

    phases: tuple[str, ...]
    requests: tuple[str, ...]
    statements: int
    batches: int
    checkpoints: int
    seconds: float


class Scenarios:
    """Draws scenarios; the same ones for the same seed and itinerary.

    Parameters
    ----------
    itinerary : Itinerary
        Where faults can happen.
    seed : int
        Decides everything that chance decides.
    """

    def __init__(self, itinerary: Itinerary, *, seed: int) -> None:
        self._itinerary = itinerary
        self._random = random.Random(seed)
        self._edges = self._in_turn(
            [
                Point(name=phase, edge=edge)
                for phase in itinerary.phases
                for edge in ("enter", "leave")
            ]
        )
        self._wire = self._in_turn(
            [
                WirePoint(request=request, moment=moment)
                for request in itinerary.requests
                for moment in ("asked", "acted", "answered")
            ]
        )
        self._network = self._in_turn(
            [(kind, request) for kind in NETWORK_KINDS for request in itinerary.requests]
        )
        self._damage = self._in_turn(list(DAMAGE_KINDS))
        self._jumps = self._in_turn(list(JUMPS))

    def _in_turn(self, things: list) -> Iterator:
        """Yield all in a random order, and again."""
        while True:
            self._random.shuffle(things)
            yield from list(things)

    def draw(self, number: int) -> Scenario:
        """Return the next run."""
        family = _FAMILIES[number % len(_FAMILIES)]
        first, second, damage = Faults(), Faults(), None
        chance = self._random
        match family:
            case "phase":
                first = Faults(kill=next(self._edges))
            case "random":
                first = Faults(kill=self._random_time())
            case "statement":
                first = Faults(kill=self._statement())
            case "wire":
                first = Faults(kill=next(self._wire))
            case "checkpoint":
                first = Faults(kill=self._checkpoint())
            case "twice":
                first, second = Faults(kill=self._late_kill()), Faults(kill=self._early_kill())
            case "network":
                kill = self._random_time() if chance.random() < 0.2 else None
                first = Faults(kill=kill, network=self._network_fault())
                if chance.random() < 0.3:
                    second = Faults(network=self._network_fault())
            case "disk":
                kill = self._random_time() if chance.random() < 0.3 else None
                first = Faults(kill=kill, disk=self._disk())
            case "clock":
                first = self._clock()
                if chance.random() < 0.5:
                    second = Faults(clock=ClockJump(at=None, seconds=next(self._jumps)))
            case "damage":
                kill = self._late_kill() if chance.random() < 0.7 else None
                first = Faults(kill=kill)
                damage = Damage(kind=next(self._damage), seed=chance.randrange(2**32))
            case "budget":
                return self._budget(number)
        return Scenario(
            number=number,
            family=family,
            first=first,
            second=second,
            damage=damage,
            healthy_first=chance.random() < 0.5,
        )

    def _budget(self, number: int) -> Scenario:
        chance = self._random
        by_time = chance.random() < 0.6
        budget = Budget(measure="contributions", amount=1.0)
        if by_time:
            budget = Budget(measure="wall_seconds", amount=chance.uniform(1.1, 3.5))
        kill = self._late_kill()
        if by_time and chance.random() < 0.7:
            kill = RandomTime(after=chance.uniform(0.2, 0.8) * budget.amount)
        return Scenario(
            number=number,
            family="budget",
            first=Faults(kill=kill),
            second=Faults(kill=self._early_kill() if chance.random() < 0.5 else None),
            budget=budget,
            # The ledger writes once a second, so training has to take longer than that; and without
            # a checkpoint it has to know by itself what a killed session has spent.
            batch_seconds=SLOW_BATCH_SECONDS if by_time else 0.001,
            checkpoint_seconds=chance.choice([0.004, 60.0]),
            next_clock=0.0 if by_time else chance.choice([0.0, *JUMPS[:-1]]),
            healthy_first=chance.random() < 0.5,
        )

    def _random_time(self) -> RandomTime:
        return RandomTime(after=self._random.uniform(0.0, 1.1 * self._itinerary.seconds))

    def _statement(self) -> Point:
        return Point(name="statement", count=self._random.randint(1, self._itinerary.statements))

    def _checkpoint(self) -> Point:
        edge = "enter" if self._random.random() < 0.5 else "leave"
        # Fewer may come up than last time, as they depend on the time that passes.
        count = self._random.randint(1, max(1, self._itinerary.checkpoints // 2))
        return Point(name="checkpoint", edge=edge, count=count)

    def _batch(self) -> Point:
        return Point(
            name="batch",
            edge="leave",
            count=self._random.randint(1, max(1, self._itinerary.batches)),
        )

    def _late_kill(self) -> Point | WirePoint | RandomTime:
        late = [Point(name=name, edge="leave") for name in ("check_in", "train", "report")]
        late.append(WirePoint(request="upload", moment="acted"))
        return self._random.choice([*late, self._batch(), self._checkpoint(), self._random_time()])

    def _early_kill(self) -> Point | RandomTime:
        after = Point(name="statement", count=self._random.randint(1, 40))
        return self._random.choice([after, self._batch(), self._random_time()])

    def _network_fault(self) -> NetworkFault:
        kind, request = next(self._network)
        return NetworkFault(
            kind=kind,
            request=request,
            times=self._random.choice([1, 1, 2, 100]),
            place=self._random.random(),
            second_answer=self._random.random() < 0.5,
        )

    def _somewhere(self) -> Point:
        edge = "enter" if self._random.random() < 0.5 else "leave"
        phases = [Point(name=phase, edge=edge) for phase in self._itinerary.phases]
        return self._random.choice([*phases, self._batch()])

    def _disk(self) -> DiskFull:
        chance = self._random.random()
        return DiskFull(
            at=None if chance < 0.15 else self._somewhere(),
            room=self._random.choice([0, 100, 4096, 9000, 20_000]),
            until=self._somewhere() if chance > 0.7 else None,
        )

    def _clock(self) -> Faults:
        at = None if self._random.random() < 0.25 else self._somewhere()
        kill = self._late_kill() if self._random.random() < 0.5 else None
        return Faults(kill=kill, clock=ClockJump(at=at, seconds=next(self._jumps)))
