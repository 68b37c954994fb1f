"""From a lease to a report that the back end holds: once, whatever happens on the way.

Every step that cannot be taken back is written down before it is taken or together with what it
follows from, so a run that was killed goes on where it stopped: it trains the same examples in the same
order from the last checkpoint, and sends the same sealed bytes under the same lease. The back end
recognises bytes that it has, so a report counts once however often it arrives.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from pocketfl.device.attempt import Attempt, RoundEnd
from pocketfl.device.enrolment import FeatureDownloads
from pocketfl.device.hooks import SessionEnd, SessionHooks
from pocketfl.device.limits import DeviceLimits
from pocketfl.device.models import ModelInfo
from pocketfl.device.plans import OpenPlan
from pocketfl.device.session_queries import SessionQueries
from pocketfl.device.session_training import SessionTraining
from pocketfl.device.sessions import ASK_SECONDS, PendingSession, Session, Sessions
from pocketfl.device.sources import ModelSource
from pocketfl.errors import PocketFLError, ReportError, StoreError, TransportError
from pocketfl.funnel.log import DayLog
from pocketfl.plan.manifest import Manifest
from pocketfl.reports import SealedReport, make_report
from pocketfl.runtimes import FloatVector
from pocketfl.sampling import Participation, ParticipationState
from pocketfl.sealing import AggregatorVerifier, ReportContext, key_id
from pocketfl.store import ExampleStore
from pocketfl.training import Checkpoint, CheckpointPolicy
from pocketfl.transport import Transport

MAX_TRIES: Final = 8
"""Runs of one session that end with the process and bring no checkpoint; then it is abandoned."""

_LOOK_SECONDS: Final = 900.0
"""How soon a device looks for other rounds while a report is kept back."""

KeptBack: TypeAlias = dict[tuple[str, int], float]
"""Seconds for which reports still wait, by task and round."""

# What settles the fate of a report. Everything else, such as a proxy's page or an overloaded server,
# says nothing about it.
_VERDICTS: Final[dict[tuple[int | None, str | None], SessionEnd]] = {
    # Only this device and the back end know the lease, so the first report was this device's. Its
    # record can be lost with the power, and then another one was made.
    (409, "other_report_for_lease"): "accepted",
    (404, "unknown_lease"): "rejected",
    (410, "lease_expired"): "rejected",
    (410, "round_closed"): "rejected",
    (413, "body_too_large"): "rejected",
    (422, "wrong_length"): "rejected",
}
_PASSING_STATUS: Final = frozenset({401, 408, 425, 429})
_LASTING_CODES: Final = frozenset({"endless_pages", "wrong_table"})


class Contribution:
    """Takes a device's sessions to their end.

    Parameters
    ----------
    store : ExampleStore
        The device's examples.
    transport : Transport
        The line to the back end.
    source : ModelSource
        Plans and models.
    features : FeatureDownloads
        The user's server-side features.
    sessions : Sessions
        What is remembered of them.
    participation : Participation
        How far each round has come.
    aggregator : AggregatorVerifier
        Decides which trusted tier may read reports.
    limits : DeviceLimits
        What the device agrees to at most.
    runtime : str
        What trains.
    checkpoints : CheckpointPolicy
        How often training is written down.
    hooks : SessionHooks
        What else happens.
    log : DayLog
        What happened on the days before, for plans that ask.
    clock : callable
        Unix time in seconds.
    """

    def __init__(
        self,
        store: ExampleStore,
        transport: Transport,
        *,
        source: ModelSource,
        features: FeatureDownloads,
        sessions: Sessions,
        participation: Participation,
        aggregator: AggregatorVerifier,
        limits: DeviceLimits,
        runtime: str,
        checkpoints: CheckpointPolicy,
        hooks: SessionHooks,
        log: DayLog,
        clock: Callable[[], float],
    ) -> None:
        self._store = store
        self._transport = transport
        self._source = source
        self._features = features
        self._sessions = sessions
        self._participation = participation
        self._aggregator = aggregator
        self._limits = limits
        self._hooks = hooks
        self._training = SessionTraining(
            store, sessions, runtime=runtime, checkpoints=checkpoints, hooks=hooks
        )
        self._queries = SessionQueries(store, runtime=runtime, hooks=hooks, log=log)
        self._revoked = threading.Event()
        self._clock = clock

    # Beginnings.

    def begin(self, session: Session, manifest: Manifest) -> None:
        """Write down that this device holds a lease."""
        with self._store.database.transaction():
            self._participation.advance(task=session.task, round=session.round, state="training")
            self._sessions.begin(session)
            self._hooks.began(session, manifest=manifest, resumed=False, spent={})

    def find_pending(self, *, task: str | None) -> tuple[list[PendingSession], KeptBack]:
        """Return the sessions to go on with, and abandon those that cannot be gone on with.

        Parameters
        ----------
        task : str or None
            Of this task only, or of any.

        Returns
        -------
        list of PendingSession
            Those that may go on now, the oldest first.
        dict
            For how many seconds more the others' reports are kept back, by task and round.
        """
        found: list[PendingSession] = []
        waiting: KeptBack = {}
        for pending in self._sessions.pending():
            code = self._reason_to_abandon(pending)
            if code is not None:
                # A report whose record is damaged cannot be sent again, nor asked about.
                end: SessionEnd = "unknown" if pending.has_report else "abandoned"
                self._settle(pending.task, pending.round, end, code=code)
            elif task in (None, pending.task):
                wait = self._seconds_to_upload(pending)
                if wait > 0:
                    waiting[pending.task, pending.round] = wait
                else:
                    found.append(pending)
        return found, waiting

    def _seconds_to_upload(self, pending: PendingSession) -> float:
        if pending.session is None or not pending.has_report:
            return 0.0
        return pending.session.upload_after - self._clock()

    def abandon_all(self, *, code: str) -> int:
        """End every session that waits; return how many that were."""
        waiting = self._sessions.pending()
        for pending in waiting:
            end: SessionEnd = "unknown" if pending.has_report else "abandoned"
            self._settle(pending.task, pending.round, end, code=code)
        return len(waiting)

    def _reason_to_abandon(self, pending: PendingSession) -> str | None:
        if pending.session is None:
            return "session_damaged"
        if pending.has_report:
            return None
        if self._has_expired(pending.session):
            return "lease_expired"
        return "gave_up" if pending.tries >= MAX_TRIES else None

    def resume(self, attempt: Attempt, pending: PendingSession) -> None:
        """Go on with a session that an earlier run began.

        Raises
        ------
        RoundEnd
            If it does not end in a report that the back end holds.
        """
        session = pending.session
        if session is None:
            raise ValueError("a damaged session cannot be resumed")
        attempt.notice = session.notice
        attempt.resumed = True
        checkpoint = None if pending.has_report else self._sessions.checkpoint(session)
        with self._store.database.transaction():
            self._sessions.count_try(session, change=1)
            spent = {} if checkpoint is None else checkpoint.spent
            self._hooks.began(session, manifest=None, resumed=True, spent=spent)
        why = self._hooks.gives_up()
        if why is not None:
            end: SessionEnd = "unknown" if pending.has_report else "abandoned"
            self._settle(session.task, session.round, end, code="budget")
            raise RoundEnd("failed", "budget", f"the session was given up: {why}")
        if pending.has_report:
            # What the back end has not answered for may have reached it all the same.
            self._guard(
                attempt,
                session,
                lambda: self._repeat_upload(attempt, session),
                otherwise="unknown",
            )
        else:
            self._guard(
                attempt, session, lambda: self._open_and_train(attempt, session, checkpoint)
            )

    def run(self, attempt: Attempt, session: Session, opened: OpenPlan) -> None:
        """Train for a session that has just begun, and report.

        Raises
        ------
        RoundEnd
            If it does not end in a report that the back end holds.
        """
        self._guard(
            attempt, session, lambda: self._train_and_report(attempt, session, opened, None)
        )

    # Ends.

    def _guard(
        self,
        attempt: Attempt,
        session: Session,
        work: Callable[[], None],
        *,
        otherwise: SessionEnd = "abandoned",
    ) -> None:
        """Do what ends in an accepted report; on a failure keep the session, or end it."""
        self._revoked.clear()
        try:
            with self._store.session(session.collection, self._revoked.set):
                work()
        except _UploadError as failed:
            verdict = failed.verdict
            if verdict is None and not self._sessions.is_open(session):
                verdict = "unknown"
            failed.resumable = verdict is None
            if verdict is None:
                self._pause(attempt, session, failed)
            else:
                self._settle(session.task, session.round, verdict, code=failed.code)
            raise
        except (PocketFLError, RoundEnd) as error:
            end = error if isinstance(error, RoundEnd) else RoundEnd.of(error)
            end.resumable = _may_pass(error) and self._sessions.is_open(session)
            if not end.resumable:
                self._settle(session.task, session.round, otherwise, code=end.code)
            else:
                self._pause(attempt, session, error)
            raise end from error
        self._settle(session.task, session.round, "accepted", code="reported")

    def _pause(self, attempt: Attempt, session: Session, error: Exception) -> None:
        with self._store.database.transaction():
            # It ended in order; but a full disk may be what keeps all tries from getting anywhere.
            if attempt.resumed and not isinstance(error, StoreError):
                self._sessions.count_try(session, change=-1)
            self._hooks.paused()

    def _settle(self, task: str, number: int, end: SessionEnd, *, code: str) -> None:
        with self._store.database.transaction():
            was_open = self._sessions.end(task, number)
            in_training = self._participation.standing(task=task, round=number) == "training"
            if in_training:
                state: ParticipationState = "uploaded" if end == "accepted" else "abandoned"
                self._participation.advance(task=task, round=number, state=state)
            # Another process may have been quicker; what it took note of is not noted twice.
            if was_open or in_training:
                self._hooks.settled(task=task, round=number, end=end, code=code)

    def _has_expired(self, session: Session) -> bool:
        return session.assignment.expires_at <= self._clock()

    def _check_lease(self, session: Session) -> None:
        if self._has_expired(session):
            raise RoundEnd(
                "failed",
                "lease_expired",
                "the lease has expired (if that is not so, this device's clock is wrong)",
            )

    def _should_stop(self) -> bool:
        return self._revoked.is_set() or self._hooks.should_stop()

    def _stop_if_asked(self) -> None:
        if self._should_stop():
            raise RoundEnd(
                "interrupted",
                "stopped",
                "the session was stopped; it goes on within its lease",
                resumable=True,
            )

    # The way from one to the other.

    def _open_and_train(
        self, attempt: Attempt, session: Session, checkpoint: Checkpoint | None
    ) -> None:
        with attempt.phase("plan"):
            opened = self._source.plan(session.notice.plan_sha256)
        # The app may have been updated since: its limits and keys of today are the ones that count.
        self._limits.check(opened.plan.manifest)
        self._hooks.opened(session, opened.plan.manifest)
        self._train_and_report(attempt, session, opened, checkpoint)

    def _train_and_report(
        self,
        attempt: Attempt,
        session: Session,
        opened: OpenPlan,
        checkpoint: Checkpoint | None,
    ) -> None:
        plan = opened.plan
        _check_assignment(session)
        self._check_lease(session)
        public_key = self._aggregator.verify(
            session.assignment.aggregator,
            policy_hash=opened.policy_hash,
            plan_sha256=plan.sha256,
        )
        self._stop_if_asked()
        start: FloatVector | None = None
        if plan.manifest.model is not None:
            with attempt.phase("parameters"):
                start = self._source.parameters(ModelInfo.of(session.notice), opened)
        with attempt.phase("features"):
            table = plan.manifest.features.server_table
            # Newer rows could change examples that have been trained on already.
            if table is not None and checkpoint is None:
                self._features.refresh(table)
        self._stop_if_asked()
        update = self._make_update(attempt, session, opened, start=start, checkpoint=checkpoint)
        with attempt.phase("report"):
            self._check_lease(session)
            context = ReportContext(
                key_id=key_id(public_key),
                policy_hash=opened.policy_hash,
                plan_sha256=plan.sha256,
                task=session.task,
                round=session.round,
                model_version=session.notice.model_version,
                clip_norm=session.notice.clip_norm,
                lease=session.assignment.lease,
            )
            report = make_report(update, plan=plan, context=context, public_key=public_key)
            with self._store.database.transaction():
                if not self._sessions.keep_report(session, report):
                    raise RoundEnd(
                        "failed",
                        "session_ended",
                        "the session was ended while it trained; nothing is sent",
                    )
                self._hooks.prepared(session, report, plan.manifest)
        self._upload(attempt, session, report)

    def _make_update(
        self,
        attempt: Attempt,
        session: Session,
        opened: OpenPlan,
        *,
        start: FloatVector | None,
        checkpoint: Checkpoint | None,
    ) -> NDArray[np.float64]:
        if opened.plan.manifest.kind == "training" and start is not None:
            return self._training.run(
                attempt,
                session,
                opened,
                start=start,
                checkpoint=checkpoint,
                should_stop=self._should_stop,
            )
        return self._queries.run(
            attempt, session, opened, parameters=start, should_stop=self._should_stop
        )

    def _repeat_upload(self, attempt: Attempt, session: Session) -> None:
        try:
            report = self._sessions.report(session)
        except ReportError as error:
            raise _UploadError("unknown", "report_damaged", str(error)) from None
        self._upload(attempt, session, report)

    def _upload(self, attempt: Attempt, session: Session, report: SealedReport) -> None:
        self._stop_if_asked()
        wait = session.upload_after - self._clock()
        if wait > 0:
            raise kept_back(wait)
        try:
            with attempt.phase("upload"):
                self._transport.upload(session.assignment.lease, report)
        except TransportError as error:
            code = error.code or "transport"
            verdict = _VERDICTS.get((error.status, error.code))
            if verdict == "accepted":
                return
            if verdict is None and self._clock() > session.assignment.expires_at + ASK_SECONDS:
                verdict = "unknown"
            reason = str(error)
            if verdict is None:
                reason += "; the report is kept, and sent again another time"
            raise _UploadError(verdict, code, reason, retry_after=error.retry_after) from None


def kept_back(seconds: float) -> RoundEnd:
    """Return the end of a run whose report is made, and leaves at a time that was drawn before."""
    return RoundEnd(
        "interrupted",
        "upload_waits",
        f"the report is made and waits {seconds:.0f} s more, so that its time says nothing",
        retry_after=min(seconds, _LOOK_SECONDS),
        resumable=True,
    )


class _UploadError(RoundEnd):
    """A report was not acknowledged, and may have arrived; without a verdict that may still change."""

    def __init__(
        self,
        verdict: SessionEnd | None,
        code: str,
        reason: str,
        *,
        retry_after: float | None = None,
    ) -> None:
        super().__init__("failed", code, reason, retry_after=retry_after)
        self.verdict: Final = verdict


def _may_pass(error: PocketFLError | RoundEnd) -> bool:
    """Whether the same session may succeed at another time."""
    match error:
        case RoundEnd():
            return error.resumable
        case TransportError(code=code) if code in _LASTING_CODES:
            return False
        case TransportError(status=status):
            return status is None or not 400 <= status < 500 or status in _PASSING_STATUS
        case _:
            return isinstance(error, StoreError)


def _check_assignment(session: Session) -> None:
    for field in ("task", "round", "model_version", "plan_sha256", "parameters_sha256"):
        announced, assigned = getattr(session.notice, field), getattr(session.assignment, field)
        if announced != assigned:
            raise RoundEnd(
                "failed",
                "assignment_mismatch",
                f"the server announced {field} {announced!r} to everybody and gave this device "
                f"{assigned!r}",
            )
