"""One try to take part in a round: its clock, its costs, and how it ends."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Final

from pocketfl.device.outcome import RoundOutcome, RoundStatus
from pocketfl.errors import (
    AggregatorRefusedError,
    BudgetError,
    CredentialError,
    FeatureError,
    KeyConsistencyError,
    PlanError,
    PlanRefusedError,
    PlanSignatureError,
    PlanUnsupportedError,
    PocketFLError,
    ReportError,
    RuntimeUnavailableError,
    SealingError,
    StoreError,
    TrainingError,
    TransportError,
)
from pocketfl.protocol import RoundNotice
from pocketfl.training import LocalResult
from pocketfl.transport import Traffic, Transport

# The first that fits: subclasses come before their bases.
_CODES: Final[tuple[tuple[type[PocketFLError], RoundStatus, str], ...]] = (
    (BudgetError, "ineligible", "budget"),
    (PlanRefusedError, "ineligible", "plan_refused"),
    (PlanUnsupportedError, "ineligible", "plan_unsupported"),
    (RuntimeUnavailableError, "ineligible", "runtime_unavailable"),
    (PlanSignatureError, "failed", "plan_signature"),
    (PlanError, "failed", "plan"),
    (FeatureError, "failed", "features"),
    (StoreError, "failed", "store"),
    (TrainingError, "failed", "training"),
    (ReportError, "failed", "update"),
    (SealingError, "failed", "sealing"),
    (AggregatorRefusedError, "failed", "aggregator_refused"),
    (KeyConsistencyError, "failed", "token_keys_refused"),
    (CredentialError, "failed", "credential"),
    (TransportError, "failed", "transport"),
    (PocketFLError, "failed", "error"),
)


class RoundEnd(Exception):  # noqa: N818 - an end is not always an error
    """How the try ends; raised where there is nothing more to do.

    Parameters
    ----------
    status, code, reason
        See :class:`RoundOutcome`.
    retry_after : float, optional
        Seconds.
    resumable : bool
        Whether a session waits to go on.
    """

    def __init__(
        self,
        status: RoundStatus,
        code: str,
        reason: str,
        *,
        retry_after: float | None = None,
        resumable: bool = False,
    ) -> None:
        super().__init__(reason)
        self.status = status
        self.code = code
        self.reason = reason
        self.retry_after = retry_after
        self.resumable = resumable

    @classmethod
    def of(cls, error: PocketFLError) -> RoundEnd:
        """Return the end that an error means."""
        status, code = next((s, c) for kind, s, c in _CODES if isinstance(error, kind))
        retry_after = None
        if isinstance(error, TransportError):
            code = error.code or code
            retry_after = error.retry_after
        elif isinstance(error, BudgetError):
            retry_after = error.retry_after
        return cls(status, code, str(error), retry_after=retry_after)


class Attempt:
    """Collects what :class:`RoundOutcome` reports.

    Parameters
    ----------
    transport : Transport
        Whose traffic is counted from now on.
    """

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._traffic: Traffic = transport.traffic
        self._began = time.perf_counter()
        self._phases: dict[str, float] = {}
        self.notice: RoundNotice | None = None
        self.training: LocalResult | None = None
        self.resumed = False
        self.earlier_step_seconds = 0.0

    def phase(self, name: str) -> AbstractContextManager[None]:
        """Add the time of a block to a phase."""
        return _Phase(self._phases, name)

    def outcome(self, end: RoundEnd) -> RoundOutcome:
        """Return what became of it."""
        spent = self._transport.traffic - self._traffic
        notice, training = self.notice, self.training
        return RoundOutcome(
            status=end.status,
            code=end.code,
            reason=end.reason,
            task=notice.task if notice else None,
            round=notice.round if notice else None,
            model_version=notice.model_version if notice else None,
            steps=training.steps if training else 0,
            examples=training.examples if training else 0,
            loss=training.mean_loss if training else None,
            seconds=time.perf_counter() - self._began,
            step_seconds=training.step_seconds - self.earlier_step_seconds if training else 0.0,
            phases=self._phases,
            bytes_up=spent.bytes_up,
            bytes_down=spent.bytes_down,
            retry_after=end.retry_after,
            resumed=self.resumed,
            resumable=end.resumable,
        )


class _Phase:
    """A block of a try; not a generator, as a round enters a dozen."""

    __slots__ = ("_began", "_name", "_phases")

    def __init__(self, phases: dict[str, float], name: str) -> None:
        self._phases = phases
        self._name = name
        self._began = 0.0

    def __enter__(self) -> None:
        self._began = time.perf_counter()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        spent = time.perf_counter() - self._began
        self._phases[self._name] = self._phases.get(self._name, 0.0) + spent
