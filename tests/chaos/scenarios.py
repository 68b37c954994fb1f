"""What the runs are: every place in turn, the rest by chance, all from one seed."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from tests.chaos.counting import EPSILON_DELTA, NOISE_MULTIPLIER
from tests.chaos.faults import (
    BUDGET_MEASURES,
    BYTE_MEASURES,
    COUNT_MEASURES,
    DAMAGE_KINDS,
    NETWORK_KINDS,
    TIME_MEASURES,
    Budget,
    ClockJump,
    Damage,
    DiskFull,
    Faults,
    NetworkFault,
    Point,
    RandomTime,
    Scenario,
    ServerKill,
    WirePoint,
)

from pocketfl.budgets.epsilon import contribution_rho, epsilon_of

JUMPS: Final = (-400 * 86_400.0, -25 * 3600.0, -90.0, 90.0, 25 * 3600.0, 40 * 86_400.0)
"""Seconds by which a clock is set; a round lasts 20 days."""

SLOW_BATCH_SECONDS: Final = 0.05

_TO_THE_BACK_END: Final = ("enrol", "notices", "check_in", "plan", "parameters", "upload")
# What a round of the counting task takes at least, and what it takes with a few repetitions.
_ROOM_UP: Final = (10_000.0, 14_000.0)
_ROOM_DOWN: Final = (25_000.0, 60_000.0)

# The order in which families come up: a dozen runs have one of each.
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
    "server",
    "network",
    "random",
    "disk",
    "phase",
    "statement",
    "network",
    "clock",
    "budget",
    "server",
    "phase",
    "budget",
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
        self._measures = self._in_turn(list(BUDGET_MEASURES))
        self._servers = self._in_turn(
            [
                (processes, at)
                for processes in (("gateway",), ("trusted",), ("gateway", "trusted"))
                for at in (
                    None,
                    *(
                        WirePoint(request=request, moment=moment)
                        for request in _TO_THE_BACK_END
                        for moment in ("asked", "acted", "answered")
                    ),
                )
            ]
        )

    def _in_turn(self, things: list) -> Iterator:
        """Yield all in a random order, and again."""
        while True:
            self._random.shuffle(things)
            yield from list(things)

    def draw(self, number: int) -> Scenario:
        """Return the next run."""
        family = _FAMILIES[number % len(_FAMILIES)]
        first, second, damage, server = Faults(), Faults(), None, None
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
            case "server":
                server = self._server()
            case "budget":
                return self._budget(number)
        return Scenario(
            number=number,
            family=family,
            first=first,
            second=second,
            damage=damage,
            server=server,
            healthy_first=chance.random() < 0.5,
        )

    def _server(self) -> ServerKill:
        processes, at = next(self._servers)
        # Half of the kills come while a process is at work on the request, or on the sum.
        after = self._random.uniform(0.0, 0.03) if self._random.random() < 0.5 else 0.0
        return ServerKill(processes=processes, at=at, after=after)

    def _budget(self, number: int) -> Scenario:
        chance = self._random
        measure = next(self._measures)
        first, second = Faults(kill=self._late_kill()), Faults()
        if chance.random() < 0.5:
            second = Faults(kill=self._early_kill())
        amount = 1.0
        if measure == "wall_seconds":
            amount = chance.uniform(1.1, 3.5)
        elif measure == "cpu_seconds":
            # A crash is charged with a second of every processor.
            amount = (os.cpu_count() or 1) + chance.uniform(0.2, 1.2)
        elif measure == "bytes_up":
            amount = chance.uniform(*_ROOM_UP)
        elif measure == "bytes_down_unmetered":
            amount = chance.uniform(*_ROOM_DOWN)
        elif measure == "epsilon":
            # Room for one contribution, and not for two.
            amount = epsilon_of(1.5 * contribution_rho(NOISE_MULTIPLIER), delta=EPSILON_DELTA)
        by_time, by_count = measure in TIME_MEASURES, measure in COUNT_MEASURES
        if by_time and chance.random() < 0.7:
            first = Faults(kill=RandomTime(after=chance.uniform(0.2, 0.8) * amount))
        if measure in BYTE_MEASURES:
            # Bytes are spent by sending and fetching the same again and again.
            first, second = self._costly(measure), self._costly(measure)
        return Scenario(
            number=number,
            family="budget",
            first=first,
            second=second,
            budget=Budget(measure=measure, amount=amount),
            # The ledger writes once a second, so training has to take longer than that; and without
            # a checkpoint it has to know by itself what a killed session has spent.
            batch_seconds=SLOW_BATCH_SECONDS if by_time else 0.001,
            checkpoint_seconds=chance.choice([0.004, 60.0]),
            next_clock=chance.choice([0.0, *JUMPS[:-1]]) if by_count else 0.0,
            healthy_first=chance.random() < 0.5,
        )

    def _costly(self, measure: str) -> Faults:
        up = measure == "bytes_up"
        request = "upload" if up else self._random.choice(["plan", "parameters"])
        kinds = ["answer_lost", "corrupt_up"] if up else ["corrupt_down", "cut_down"]
        fault = NetworkFault(kind=self._random.choice(kinds), request=request, times=100, place=0.9)
        if (up or request == "plan") and self._random.random() < 0.5:
            return Faults(kill=WirePoint(request=request, moment="acted"))
        return Faults(network=fault)

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
