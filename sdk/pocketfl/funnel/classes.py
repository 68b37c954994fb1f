"""From what a run came to, to an event of the list: codes and exceptions become a few classes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from pocketfl.funnel.events import event
from pocketfl.queries.spec import FunnelEvent
from pocketfl.reasons import Reason

_ERRORS: Final = {
    "network": {"unreachable", "too_slow", "transport", "tls"},
    "plan": {"plan", "plan_unsupported", "runtime_unavailable"},
    "model": {"training", "update"},
    "data": {"features"},
    "store": {"store"},
    "trust": {
        "plan_signature",
        "sealing",
        "aggregator_refused",
        "assignment_mismatch",
        "credential",
        "token_keys_refused",
    },
    # Every other code comes from an answer of the server.
    "other": {
        "error",
        "gave_up",
        "interrupted",
        "lease_expired",
        "memory_lost",
        "report_damaged",
        "session_damaged",
        "session_ended",
    },
}
_TURNED_AWAY: Final = {
    "paused": {"paused", "fleet_paused"},
    "closed": {"round_closed"},
    "unsupported": {"runtime_unsupported", "plan_schema_unsupported"},
}
_REJECTED: Final = {
    "late": {"lease_expired", "round_closed", "unknown_lease"},
    "size": {"body_too_large", "wrong_length"},
}
# By words of the condition or limit that was broken; the first that fits.
_INTERRUPTIONS: Final = (
    ("memory", "memory"),
    ("battery", "battery"),
    ("charg", "battery"),
    ("power", "battery"),
    ("thermal", "thermal"),
    ("metered", "network"),
    ("network", "network"),
    ("link", "network"),
    ("storage", "storage"),
    ("switched", "app"),
    ("training", "app"),
    ("of this round", "budget"),
    ("seconds", "budget"),
    ("joules", "budget"),
)
# No error, and nothing to count: what waits, or was not this device's turn.
_SILENT: Final = frozenset(
    {"busy", "upload_waits", "round_closed", "already_reported", "abandoned"}
)


def _class_of(code: str, classes: dict[str, set[str]], *, otherwise: str = "other") -> str:
    return next((name for name, codes in classes.items() if code in codes), otherwise)


def event_of_failure(code: str) -> FunnelEvent | None:
    """Return the event of a run that failed with an outcome's code; None where nothing went wrong."""
    if code in _SILENT:
        return None
    return event("error", _class_of(code, _ERRORS, otherwise="server"))


def event_of_exception(error: BaseException) -> FunnelEvent:
    """Return the event of a run that a program's error ended."""
    return event("error", "memory" if isinstance(error, MemoryError) else "other")


def event_of_refusal(code: str) -> FunnelEvent:
    """Return the event of a check-in without a place."""
    return event("turned_away", _class_of(code, _TURNED_AWAY))


def event_of_rejection(code: str) -> FunnelEvent:
    """Return the event of a report that the server would not take."""
    return event("rejected", _class_of(code, _REJECTED))


def event_of_interruption(reasons: Iterable[Reason]) -> FunnelEvent:
    """Return the event of a run that was stopped, by what stopped it; by the app without a reason."""
    for reason in reasons:
        for word, name in _INTERRUPTIONS:
            if word in reason.condition.lower():
                return event("interrupted", name)
        return event("interrupted", "other")
    return event("interrupted", "app")
