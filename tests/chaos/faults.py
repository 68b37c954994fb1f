"""What may happen to a device in one run; plain values, so that they travel to its process."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

Edge: TypeAlias = Literal["enter", "leave"]
RequestName: TypeAlias = str
"""``enrol``, ``notices``, ``check_in``, ``plan``, ``parameters``, ``upload`` or ``features``."""

WireMoment: TypeAlias = Literal["asked", "acted", "answered"]
"""A request before the server has it; after the server acted; after the device has the answer."""

ServerName: TypeAlias = Literal["gateway", "trusted"]
"""The back end's process that devices talk to, and the trusted tier's."""

NETWORK_KINDS: Final = (
    "refused",
    "cut_up",
    "cut_down",
    "answer_lost",
    "duplicated",
    "corrupt_up",
    "corrupt_down",
    "slow",
)
TIME_MEASURES: Final = ("wall_seconds", "cpu_seconds")
"""Of one round; what ends a session at a batch."""
BYTE_MEASURES: Final = ("bytes_up", "bytes_down_unmetered")
"""Of one round."""
COUNT_MEASURES: Final = ("contributions", "epsilon")
"""Of a day and of a year: as many contributions as there are, or as its epsilon has room for."""
BUDGET_MEASURES: Final = (*TIME_MEASURES, *BYTE_MEASURES, *COUNT_MEASURES)
DAMAGE_KINDS: Final = ("header", "page", "pages", "cut", "garbage", "log")


@dataclass(frozen=True, kw_only=True)
class Point:
    """A place in a session.

    Attributes
    ----------
    name : str
        A phase of :class:`pocketfl.device.attempt.Attempt`, ``append`` (the app keeps examples),
        ``batch`` (a training step), ``checkpoint`` or ``statement`` (of SQL, before it runs).
    edge : {"enter", "leave"}
        Which end of it.
    count : int
        Which time, from 1.
    """

    name: str
    edge: Edge = "enter"
    count: int = 1


@dataclass(frozen=True, kw_only=True)
class WirePoint:
    """A moment of a request, seen from the wire."""

    request: RequestName
    moment: WireMoment


@dataclass(frozen=True, kw_only=True)
class RandomTime:
    """A moment after the session began, in seconds."""

    after: float


@dataclass(frozen=True, kw_only=True)
class NetworkFault:
    """What the network does to requests of one kind.

    Attributes
    ----------
    kind : str
        One of :data:`NETWORK_KINDS`.
    request : str
        Which requests.
    times : int
        How many of them, from the first.
    place : float
        Where in the message, 0 to 1.
    second_answer : bool
        Of a duplicated request: whether the device gets the answer to the second copy.
    """

    kind: str
    request: RequestName
    times: int = 1
    place: float = 0.5
    second_answer: bool = False


@dataclass(frozen=True, kw_only=True)
class DiskFull:
    """No file grows any more, from one place of a session to another or to its end.

    Attributes
    ----------
    at : Point or None
        From where; None is from the start.
    room : int
        Bytes that the write-ahead log may still grow.
    until : Point or None
        Where there is room again.
    """

    at: Point | None
    room: int
    until: Point | None


@dataclass(frozen=True, kw_only=True)
class ClockJump:
    """The system's clock is set.

    Attributes
    ----------
    at : Point or None
        When; None is before the session.
    seconds : float
        By how much, forward or back.
    """

    at: Point | None
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Damage:
    """The database file is damaged while no process has it open.

    Attributes
    ----------
    kind : str
        One of :data:`DAMAGE_KINDS`.
    seed : int
        Decides where and with what.
    """

    kind: str
    seed: int


@dataclass(frozen=True, kw_only=True)
class ServerKill:
    """Processes of the back end get SIGKILL, and are started again.

    Attributes
    ----------
    processes : tuple of str
        Which, in this order.
    at : WirePoint or None
        At which moment of a request of the victim's; None is while the round is being closed.
    after : float
        Seconds after that moment, so that a process may be in the middle of what it does.
    """

    processes: tuple[ServerName, ...]
    at: WirePoint | None
    after: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What the app allows in this run; without one it allows what the SDK does by default.

    Attributes
    ----------
    measure : str
        One of :data:`BUDGET_MEASURES`.
    amount : float
        At most so many.
    """

    measure: str
    amount: float


@dataclass(frozen=True, kw_only=True)
class Faults:
    """All that happens in one session of a device.

    Attributes
    ----------
    kill : Point, WirePoint, RandomTime or None
        When its process gets SIGKILL.
    network, disk, clock : optional
        See the classes.
    """

    kill: Point | WirePoint | RandomTime | None = None
    network: NetworkFault | None = None
    disk: DiskFull | None = None
    clock: ClockJump | None = None


NO_FAULTS: Final = Faults()


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """One run.

    Attributes
    ----------
    number : int
        Which one.
    family : str
        For the list of counts.
    first : Faults
        In the session that takes part in the round.
    second : Faults
        In the session after it.
    damage : Damage or None
        Between the two.
    budget : Budget or None
        What the app allows.
    server : ServerKill or None
        What happens to the back end meanwhile.
    batch_seconds, checkpoint_seconds : float
        Least time that a training step takes, and that lies between two checkpoints.
    next_clock : float
        Seconds by which the clock is wrong in the session of the next round.
    healthy_first : bool
        Whether the other devices report before this one.
    """

    number: int
    family: str
    first: Faults
    second: Faults = NO_FAULTS
    damage: Damage | None = None
    budget: Budget | None = None
    server: ServerKill | None = None
    batch_seconds: float = 0.001
    checkpoint_seconds: float = 0.004
    next_clock: float = 0.0
    healthy_first: bool = True

    def __str__(self) -> str:
        parts = [f"run {self.number}", self.family, f"first {self.first}"]
        if self.second != NO_FAULTS:
            parts.append(f"second {self.second}")
        more = (self.damage, self.budget, self.server)
        parts += [str(each) for each in more if each is not None]
        return ", ".join(parts)
