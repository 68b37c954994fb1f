"""What can happen to a device on its way through a round: a closed list, so that no detail gets out.

A phase is how far it came; a reason is one of a few classes of why it came no further. There are no
texts, times or names in an event, and the list is the same on every device.
"""

from __future__ import annotations

from typing import Final, Literal, TypeAlias, get_args

from pocketfl.queries.spec import Funnel, FunnelEvent

Phase: TypeAlias = Literal[
    "eligible",
    "check_in",
    "downloaded",
    "trained",
    "sealed",
    "uploaded",
    "accepted",
    "turned_away",
    "rejected",
    "abandoned",
    "interrupted",
    "deployed",
    "refused",
    "error",
]
"""``eligible``: plan, conditions, budgets and coin spoke for it. ``check_in``: it got a place.
``downloaded``: it had all that it needs. ``trained``: it made its update or its answer. ``sealed``: the
report was made. ``uploaded``: the server answered for it, with ``accepted`` or ``rejected``.
``turned_away``: the server had no place. ``abandoned``: the session was given up. ``interrupted``: it
was stopped and may go on. ``deployed``: a version of the model was taken into use. ``refused``: the
accept gate kept the old one. ``error``: something that should have worked did not.
"""

TurnedAway: TypeAlias = Literal["paused", "closed", "unsupported", "other"]
Rejected: TypeAlias = Literal["late", "size", "other"]
Interrupted: TypeAlias = Literal[
    "memory", "battery", "thermal", "network", "storage", "budget", "killed", "app", "other"
]
"""``killed``: the process ended in the middle of a session, as it does when the system needs memory.
``app``: it was switched off or told to stop.
"""
Deployed: TypeAlias = Literal["canary", "stable", "rollback"]
"""``canary``: of a channel other than the stable one. ``rollback``: an older version."""
Refused: TypeAlias = Literal["worse", "unusable"]
"""``worse``: on the device's own examples. ``unusable``: the device cannot run it."""
ErrorClass: TypeAlias = Literal[
    "network", "server", "plan", "model", "memory", "data", "store", "trust", "other"
]
"""``model``: training went wrong, or its result is not finite. ``trust``: a signature, key or
attestation did not hold.
"""

_REASONS: Final[dict[str, tuple[str, ...]]] = {
    "turned_away": get_args(TurnedAway),
    "rejected": get_args(Rejected),
    "interrupted": get_args(Interrupted),
    "deployed": get_args(Deployed),
    "refused": get_args(Refused),
    "error": get_args(ErrorClass),
}

ALL_EVENTS: Final[tuple[FunnelEvent, ...]] = tuple(
    FunnelEvent(phase=phase, reason=reason)
    for phase in get_args(Phase)
    for reason in _REASONS.get(phase, ("",))
)
"""Every event that a device counts."""


def event(phase: Phase, reason: str = "") -> FunnelEvent:
    """Return an event of the list.

    Raises
    ------
    ValueError
        If it is not on it.
    """
    wanted = FunnelEvent(phase=phase, reason=reason)
    if wanted not in ALL_EVENTS:
        raise ValueError(f"{phase!r} has no reason {reason!r}")
    return wanted


def funnel_query(
    *,
    name: str = "funnel",
    share: float = 1.0,
    events: tuple[FunnelEvent, ...] = ALL_EVENTS,
    max_events: int = 16,
    max_per_event: int = 1,
) -> Funnel:
    """Return the query that asks for a day's log; by default for all of it.

    Parameters
    ----------
    name, share
        As for every query.
    events : tuple of FunnelEvent
        Those asked for.
    max_events, max_per_event : int
        Bounds of one device's day, see :class:`~pocketfl.queries.Funnel`.
    """
    return Funnel(
        name=name,
        share=share,
        events=events,
        max_events=max_events,
        max_per_event=max_per_event,
    )
