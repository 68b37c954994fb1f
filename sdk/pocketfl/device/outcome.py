"""What became of one try to take part in a round."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, TypeAlias

RoundStatus: TypeAlias = Literal[
    "completed",
    "not_sampled",
    "no_round",
    "ineligible",
    "turned_away",
    "cap_reached",
    "failed",
    "interrupted",
]


@dataclass(frozen=True, kw_only=True)
class RoundOutcome:
    """What :meth:`Device.run_once` did; stays on the device.

    Attributes
    ----------
    status : str
        ``completed``: a report was uploaded and acknowledged. ``not_sampled``: the coin came up tails.
        ``no_round``: nothing to do now. ``ineligible``: this device does not fit the plan, or the plan
        goes beyond its limits. ``turned_away``: the server has no place. ``cap_reached``: heads, but
        the plan's cap on participations is used up. ``failed``: something that should have worked did
        not, or something could not be trusted. ``interrupted``: it was told to stop, and may go on.
    code : str
        A short reason for programs, such as ``plan_signature``, ``already_reported``, ``unreachable``.
    reason : str
        A sentence for people.
    task, round, model_version : optional
        Which round it was about, if any.
    steps, examples : int
        Training steps, and different examples that they used; those of earlier runs included.
    loss : float or None
        Mean training loss.
    seconds, step_seconds : float
        Wall time of everything in this run, and of the runtime's training steps in it alone.
    phases : dict of str to float
        Wall time in seconds by phase: ``notices``, ``plan``, ``eligibility``, ``coin``, ``check_in``,
        ``parameters``, ``features``, ``select``, ``train``, ``evaluate``, ``report``, ``upload``.
    bytes_up, bytes_down : int
        As the transport counts them.
    retry_after : float or None
        Seconds after which to try again, where somebody said so.
    resumed : bool
        Whether it went on with a session that an earlier run had begun.
    resumable : bool
        Whether a session waits to go on: the next ``run_once`` within its lease does so.
    """

    status: RoundStatus
    code: str
    reason: str
    task: str | None = None
    round: int | None = None
    model_version: int | None = None
    steps: int = 0
    examples: int = 0
    loss: float | None = None
    seconds: float = 0.0
    step_seconds: float = 0.0
    phases: dict[str, float] = field(default_factory=dict)
    bytes_up: int = 0
    bytes_down: int = 0
    retry_after: float | None = None
    resumed: bool = False
    resumable: bool = False

    @property
    def overhead_seconds(self) -> float:
        """Wall time beyond the training steps."""
        return self.seconds - self.step_seconds
