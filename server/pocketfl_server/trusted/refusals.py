"""Why the trusted tier says no, as exceptions that travel as HTTP answers."""

from __future__ import annotations

from typing import ClassVar, Final

from pocketfl.errors import PocketFLError


class TrustedTierError(PocketFLError):
    """The trusted tier refused; its state is as it was before the request.

    Attributes
    ----------
    code : str
        The machine-readable reason.
    status : int
        The HTTP status that goes with it.
    details : dict
        Numbers that the message also gives.
    """

    default_code: ClassVar[str] = "trusted_tier_error"
    status: ClassVar[int] = 500

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        details: dict[str, str | int | float | bool | None] | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code or self.default_code
        self.details = dict(details or {})


class FloorNotReached(TrustedTierError):  # noqa: N818 - named for what happened
    """Fewer valid reports than the plan's floor: no noise was drawn and nothing was charged."""

    default_code = "floor_not_reached"
    status = 409


class BudgetExhausted(TrustedTierError):  # noqa: N818
    """One more release would exceed the plan's epsilon, its rounds, or the account that it shares."""

    default_code = "budget_exhausted"
    status = 403


class Conflict(TrustedTierError):  # noqa: N818
    """The request contradicts what is already on record; the record stays.

    Codes: ``task_has_other_plan``, ``plan_has_other_task``, ``other_report_for_lease``,
    ``round_released``, ``round_over``, ``round_abandoned``, ``round_full``, ``other_model_version``.
    """

    default_code = "conflict"
    status = 409


class PlanRefused(TrustedTierError):  # noqa: N818
    """The plan is unsigned, signed by nobody we trust, damaged, or promises what cannot be kept.

    Codes: ``plan_refused``, ``budget_below_one_release``, ``budget_conflict``.
    """

    default_code = "plan_refused"
    status = 422


class PeerRefused(TrustedTierError):  # noqa: N818
    """Nothing vouches for the key of the other trusted tier: no partial sum goes there or counts."""

    default_code = "peer_refused"
    status = 403


class UnknownTask(TrustedTierError):  # noqa: N818
    """No plan was registered under this task's name."""

    default_code = "unknown_task"
    status = 404


class MalformedRequest(TrustedTierError):  # noqa: N818
    """The request's bytes are not what the protocol asks for."""

    default_code = "malformed_request"
    status = 400


class RequestTooLarge(TrustedTierError):  # noqa: N818
    """The request has more bytes than the protocol allows."""

    default_code = "request_too_large"
    status = 413


class NotAuthorised(TrustedTierError):  # noqa: N818
    """The bearer token is missing or wrong."""

    default_code = "not_authorised"
    status = 401


class TrustedTierUnavailable(TrustedTierError):  # noqa: N818
    """The trusted tier could not be reached, cannot write its ledger, or answered nonsense.

    The same call may be repeated. Codes: ``unavailable``, ``ledger_failed``, ``bad_answer``,
    ``witness_failed``, ``worker_died``.
    """

    default_code = "unavailable"
    status = 503


REFUSALS: Final[tuple[type[TrustedTierError], ...]] = (
    FloorNotReached,
    BudgetExhausted,
    Conflict,
    PlanRefused,
    PeerRefused,
    UnknownTask,
    MalformedRequest,
    RequestTooLarge,
    NotAuthorised,
    TrustedTierUnavailable,
)
"""What an answer over HTTP can turn into, see :class:`.client.HttpTrustedTier`."""
