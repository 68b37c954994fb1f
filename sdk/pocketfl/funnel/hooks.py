"""Counts what happens to sessions, in the transactions in which it happens."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final

from pocketfl.device.hooks import SessionEnd, SessionHooks
from pocketfl.errors import StoreError
from pocketfl.funnel.classes import (
    event_of_exception,
    event_of_failure,
    event_of_interruption,
    event_of_refusal,
    event_of_rejection,
)
from pocketfl.funnel.events import event
from pocketfl.funnel.log import DayLog
from pocketfl.reasons import Reason

if TYPE_CHECKING:
    from pocketfl.device.outcome import RoundOutcome
    from pocketfl.device.sessions import Session
    from pocketfl.plan.manifest import Manifest
    from pocketfl.queries.spec import FunnelEvent
    from pocketfl.reports import SealedReport
    from pocketfl.training import TrainingState

_UNFIT: Final = frozenset({"plan_unsupported", "runtime_unavailable"})


class FunnelHooks(SessionHooks):
    """Writes the device's log; hands everything on to the app's own hooks.

    Parameters
    ----------
    log : DayLog
        Where events are counted.
    inner : SessionHooks
        The app's.
    """

    def __init__(self, log: DayLog, *, inner: SessionHooks) -> None:
        self._log = log
        self._inner = inner
        # What an earlier process left is asked for once.
        self._is_new = True
        self._has_begun = self._has_report = self._is_open = False

    def run_began(self) -> None:
        """Take note of a new run: a session whose process has ended meanwhile was ended with it."""
        self._has_begun = self._has_report = False
        if self._is_new and self._log.was_killed():
            self._log.bury()
        self._is_new = False

    def run_ended(self, outcome: RoundOutcome, *, reasons: Iterable[Reason]) -> None:
        """Take note of how a run ended.

        Parameters
        ----------
        outcome : RoundOutcome
            What the app is told.
        reasons : iterable of Reason
            What stopped it, where it was stopped.
        """
        events: list[FunnelEvent] = []
        if "check_in" in outcome.phases and not self._has_begun:
            events.append(event("eligible"))
        if "features" in outcome.phases and not self._has_report:
            events.append(event("downloaded"))
        why = _why(outcome, reasons)
        if why is not None:
            events.append(why)
        self._end(events)

    def run_crashed(self, error: Exception) -> None:
        """Take note of a run that an error of a program ended."""
        self._end([event_of_exception(error)])

    def _end(self, events: list[FunnelEvent]) -> None:
        if not events and not self._is_open:
            return
        # A disk that is full must not make an error of a run that went well.
        with suppress(StoreError):
            self._log.close(events)
        self._is_open = False

    def began(
        self,
        session: Session,
        *,
        manifest: Manifest | None,
        resumed: bool,
        spent: Mapping[str, float],
    ) -> None:
        """Count the check-in."""
        self._inner.began(session, manifest=manifest, resumed=resumed, spent=spent)
        self._has_begun = self._is_open = True
        self._log.open([] if resumed else [event("eligible"), event("check_in")])

    def prepared(self, session: Session, report: SealedReport, manifest: Manifest) -> None:
        """Count the sealed report, and what led to it."""
        self._inner.prepared(session, report, manifest)
        self._has_report = True
        self._log.count([event("downloaded"), event("trained"), event("sealed")])

    def paused(self) -> None:
        """Take note that no session is under way."""
        self._inner.paused()
        self._log.close([])
        self._is_open = False

    def settled(
        self,
        *,
        task: str,
        round: int,  # noqa: A002 - the word of the field
        end: SessionEnd,
        code: str,
    ) -> None:
        """Count how a session ended."""
        self._inner.settled(task=task, round=round, end=end, code=code)
        match end:
            case "accepted":
                events = [event("uploaded"), event("accepted")]
            case "rejected":
                events = [event("uploaded"), event_of_rejection(code)]
            case _:
                events = [event("abandoned")]
        self._log.close(events)
        self._is_open = False

    # What is only handed on.

    def should_stop(self) -> bool:
        """Ask the app's hooks."""
        return self._inner.should_stop()

    def spent(self) -> Mapping[str, float]:
        """Ask the app's hooks."""
        return self._inner.spent()

    def gives_up(self) -> str | None:
        """Ask the app's hooks."""
        return self._inner.gives_up()

    def opened(self, session: Session, manifest: Manifest) -> None:
        """Tell the app's hooks."""
        self._inner.opened(session, manifest)

    @contextmanager
    def training(self, cancel: Callable[[], bool]) -> Iterator[None]:
        """Have the app's hooks there."""
        with self._inner.training(cancel):
            yield

    def trained_batch(self, state: Callable[[], TrainingState]) -> None:
        """Tell the app's hooks."""
        self._inner.trained_batch(state)

    def checkpointed(self, session: Session, *, spent: Mapping[str, float]) -> None:
        """Tell the app's hooks."""
        self._inner.checkpointed(session, spent=spent)


def _why(outcome: RoundOutcome, reasons: Iterable[Reason]) -> FunnelEvent | None:
    match outcome.status:
        case "failed":
            return event_of_failure(outcome.code)
        case "interrupted" if outcome.code == "stopped":
            return event_of_interruption(reasons)
        case "turned_away":
            return event_of_refusal(outcome.code)
        case "ineligible" if outcome.code in _UNFIT:
            return event_of_failure(outcome.code)
        case _:
            return None
