"""What the ledger hands out: a reservation, a refusal, and what it has recorded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from pocketfl.budgets.amounts import Amounts
from pocketfl.reasons import Reason

Outcome: TypeAlias = Literal["sent", "unsent", "unknown"]
"""Whether the contribution left the device; ``unknown`` counts as sent."""


@dataclass(frozen=True, kw_only=True)
class Reservation:
    """Amounts set aside for one round of one task.

    Attributes
    ----------
    id : int
        The ledger's own number.
    task : str
        Name of the task.
    round : int
        Number of the round.
    granted : Amounts
        What the round may come to.
    spent : Amounts
        What was recorded.
    stride : Amounts
        The most that is spent between two records.
    crashes : int
        How often the round was taken up again by another process, each time charged one stride.
    """

    id: int
    task: str
    round: int
    granted: Amounts
    spent: Amounts
    stride: Amounts
    crashes: int


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """Why nothing was reserved.

    Attributes
    ----------
    task : str
        Name of the task.
    round : int
        Number of the round.
    reasons : tuple of Reason
        Every limit that stands against it, and when it no longer will.
    """

    task: str
    round: int
    reasons: tuple[Reason, ...]

    @property
    def retry_seconds(self) -> float | None:
        """Seconds until the last of the limits has room again; None where one never will."""
        waits = [reason.retry_seconds for reason in self.reasons]
        return None if None in waits else max((wait[1] for wait in waits if wait), default=0.0)

    def __str__(self) -> str:
        return "; ".join(str(reason) for reason in self.reasons)


@dataclass(frozen=True, kw_only=True)
class RecordedRefusal:
    """A refusal as the ledger keeps it.

    Attributes
    ----------
    wall : float
        Unix time in seconds, as the device's clock showed it.
    task : str
        Name of the task.
    round : int
        Number of the round.
    reasons : str
        For a person to read.
    """

    wall: float
    task: str
    round: int
    reasons: str


@dataclass(frozen=True, kw_only=True)
class PrivacySpent:
    """The device's privacy loss over the last 365 days, as far as it can know.

    Attributes
    ----------
    rho : float
        Sum of the contributions' zCDP parameters.
    epsilon : float
        The same at ``delta``.
    delta : float
        At which epsilon is stated.
    contributions : int
        How many went into it, those included of which it is not known whether they were sent.
    unprotected : int
        Contributions to tasks without differential privacy; epsilon says nothing about these.
    """

    rho: float
    epsilon: float
    delta: float
    contributions: int
    unprotected: int
