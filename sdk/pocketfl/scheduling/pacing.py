"""How long to wait after a try: what the server asks for, or defaults that spread devices out.

Every wait is drawn at random. Devices that were turned away together, or lost the same server in the
same second, must not come back together; a server that names a window gets them spread over it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal, Protocol, TypeAlias

Verdict: TypeAlias = Literal["served", "waiting", "transient", "permanent", "told"]
"""What a try means for the next one.

``served``: a report went out. ``waiting``: nothing to do now, which is no error. ``transient``:
something is in the way that may be gone soon. ``permanent``: something that only an update, another
plan or the user changes. ``told``: the server said when to come back.
"""


class Outcome(Protocol):
    """What the scheduler reads of a try; :class:`~pocketfl.device.RoundOutcome` has it."""

    @property
    def status(self) -> str:
        """Of :data:`~pocketfl.device.outcome.RoundStatus`."""

    @property
    def code(self) -> str:
        """A short reason for programs."""

    @property
    def reason(self) -> str:
        """A sentence for people."""

    @property
    def task(self) -> str | None:
        """Which task it was about, if any."""

    @property
    def retry_after(self) -> float | None:
        """Seconds after which to try again, where somebody said so."""

    @property
    def resumable(self) -> bool:
        """Whether a session waits to go on within its lease."""


@dataclass(frozen=True, kw_only=True)
class Pacing:
    """Waits in seconds.

    Attributes
    ----------
    poll : float
        After a report, and where there is nothing to do.
    transient : float
        After an error that may pass.
    permanent : float
        After an error that time alone does not mend.
    jitter : float
        How far each wait may lie from its middle, as a part of it.
    longest : float
        Longest wait that a server can ask for; more is cut to this.
    """

    poll: float = 900.0
    transient: float = 900.0
    permanent: float = 4 * 3600.0
    jitter: float = 0.2
    longest: float = 30 * 86_400.0

    def __post_init__(self) -> None:
        for name in ("poll", "transient", "permanent", "longest"):
            value = getattr(self, name)
            if not 1.0 <= value <= 365 * 86_400.0:
                raise ValueError(f"{name} is {value} seconds; it must be 1 second to 365 days")
        if not 0.0 <= self.jitter <= 0.5:
            raise ValueError(f"jitter is {self.jitter}; it must be 0 to 0.5")


@dataclass(frozen=True, kw_only=True)
class Delay:
    """A wait that was drawn.

    Attributes
    ----------
    seconds : float
        From the end of the try.
    verdict : Verdict
        Why so long.
    everything : bool
        Whether it holds for all tasks, because the server as a whole could not be used.
    """

    seconds: float
    verdict: Verdict
    everything: bool


_TRANSIENT: Final = frozenset(
    {
        # The network and the server's own troubles.
        "unreachable",
        "too_slow",
        "transport",
        "internal_error",
        "request_timeout",
        # The round moved on, or this device's last try was cut short.
        "busy",
        "interrupted",
        "lease_expired",
        "round_closed",
        "round_full",
        "unknown_round",
        "unknown_lease",
        "store",
        "assignment_mismatch",
        # Data, conditions and budgets change by themselves.
        "too_few_examples",
        "no_collection",
        "conditions_or_budget",
        "stopped",
        "session_ended",
        "session_damaged",
        "paused",
        "fleet_paused",
    }
)
_WHOLE_SERVER: Final = frozenset(
    {
        "unreachable",
        "too_slow",
        "transport",
        "internal_error",
        "request_timeout",
        "tls",
        "redirect",
        "bad_answer",
        "not_enrolled",
        "not_authenticated",
        "unknown_token",
        "busy",
        "fleet_paused",
    }
)


def judge(outcome: Outcome, *, pacing: Pacing, uniform: Callable[[float, float], float]) -> Delay:
    """Draw the wait that follows a try.

    Parameters
    ----------
    outcome : Outcome
        What became of the try.
    pacing : Pacing
        The defaults.
    uniform : callable
        Draws between two bounds.

    Returns
    -------
    Delay
        Never shorter than what the server asked for, unless that is beyond ``pacing.longest``.
    """
    verdict = _verdict(outcome)
    asked = outcome.retry_after
    everything = outcome.code in _WHOLE_SERVER
    if asked is not None and math.isfinite(asked) and asked >= 0:
        seconds = min(asked, pacing.longest)
        if outcome.status != "turned_away":
            # A date or a number of seconds is the same for everybody, so the jitter is ours; in the
            # window of a RetryWindow the device has drawn already.
            seconds += uniform(0.0, pacing.jitter * min(seconds, pacing.transient))
        # A device that does not fit the plan now has estimated by itself when it may.
        said = verdict if outcome.status == "ineligible" else "told"
        return Delay(seconds=seconds, verdict=said, everything=everything)
    middle = {
        "served": pacing.poll,
        "waiting": pacing.poll,
        "told": pacing.transient,
        "transient": pacing.transient,
        "permanent": pacing.permanent,
    }[verdict]
    spread = pacing.jitter * middle
    return Delay(seconds=middle + uniform(-spread, spread), verdict=verdict, everything=everything)


def _verdict(outcome: Outcome) -> Verdict:
    if outcome.status == "completed":
        return "served"
    if outcome.status in ("no_round", "not_sampled"):
        return "waiting"
    passes = outcome.resumable or outcome.status in ("turned_away", "interrupted")
    if passes or outcome.code in _TRANSIENT:
        return "transient"
    # What is not known to pass is not hammered.
    return "permanent"
