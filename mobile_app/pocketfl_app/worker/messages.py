"""What app and worker say to each other; the app commands, the worker reports."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias, TypeVar

from pocketfl.decoding import decode_json, encode_json

MESSAGE_LIMIT: Final = 1 * 2**20
T = TypeVar("T")

Job: TypeAlias = Literal["train", "round", "benchmark"]


@dataclass(frozen=True, kw_only=True)
class Start:
    """Begin a job; one at a time.

    Attributes
    ----------
    job : str
        Personal training, one federated round, or the benchmark.
    amount : int
        Epochs of training, or steps of the benchmark; nothing for a round.
    asked : bool
        Whether the person asked for a round now; if not, it waits for the schedule.
    """

    kind: Literal["start"] = "start"
    job: Job
    amount: int = 0
    asked: bool = True


@dataclass(frozen=True, kw_only=True)
class Control:
    """Hold, continue or end the job at its next batch; ``quit`` ends the worker, too."""

    kind: Literal["control"] = "control"
    action: Literal["pause", "resume", "cancel", "quit"]


@dataclass(frozen=True, kw_only=True)
class Command:
    """The line that the app sends."""

    message: Start | Control


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Steps done since the last word, with their losses."""

    kind: Literal["progress"] = "progress"
    done: int
    total: int
    losses: tuple[float, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Judged:
    """A model before the accept gate; see :class:`pocketfl.training.Verdict`."""

    accepted: bool
    examples: int
    correct_before: int
    correct_after: int
    reason: str


@dataclass(frozen=True, kw_only=True)
class Trained:
    """Personal training is over."""

    kind: Literal["trained"] = "trained"
    completed: bool
    steps: int
    seconds: float
    verdict: Judged | None = None


@dataclass(frozen=True, kw_only=True)
class RoundDone:
    """A try to take part is over; see :class:`pocketfl.device.RoundOutcome`.

    Attributes
    ----------
    verdict : Judged or None
        Of the global model that came with the round.
    model_version : int or None
        Of that model.
    """

    kind: Literal["round"] = "round"
    status: str
    code: str
    reason: str
    round: int | None = None
    model_version: int | None = None
    steps: int = 0
    bytes_up: int = 0
    bytes_down: int = 0
    resumable: bool = False
    verdict: Judged | None = None


@dataclass(frozen=True, kw_only=True)
class Benchmarked:
    """The benchmark is over.

    Attributes
    ----------
    figures : str
        JSON of :class:`pocketfl.benchmark.DeviceBenchmark`.
    """

    kind: Literal["benchmark"] = "benchmark"
    figures: str


@dataclass(frozen=True, kw_only=True)
class Failed:
    """A job ended with an error that a person can read."""

    kind: Literal["failed"] = "failed"
    reason: str


@dataclass(frozen=True, kw_only=True)
class Cancelled:
    """A job was ended before it had a result."""

    kind: Literal["cancelled"] = "cancelled"


@dataclass(frozen=True, kw_only=True)
class Ready:
    """The worker is up and has nothing to do."""

    kind: Literal["ready"] = "ready"


Event: TypeAlias = Ready | Progress | Trained | RoundDone | Benchmarked | Failed | Cancelled


@dataclass(frozen=True, kw_only=True)
class Report:
    """The line that the worker sends."""

    message: Event


def to_line(record: Any) -> bytes:
    """Return a record as a line of JSON."""
    return bytes(encode_json(record)) + b"\n"


def from_line(kind: type[T], line: bytes) -> T:
    """Read a line.

    Raises
    ------
    DecodeError
        If it is none of ours.
    """
    return decode_json(kind, line, what="worker's message", limit=MESSAGE_LIMIT)
