"""What keeps a session within the device's conditions and budgets, and writes its receipt.

They are looked at before the coin is tossed (:mod:`.admission`), at every batch, and written down in
the transactions that move the session on.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager

from pocketfl.budgets import Meter, contribution_rho, epsilon_of
from pocketfl.conditions import ConditionSpec, ConditionWatch, check_conditions
from pocketfl.database import Database
from pocketfl.device.account import SessionAccount
from pocketfl.device.admission import Admission, is_past_asking, retry_after
from pocketfl.device.attempt import RoundEnd
from pocketfl.device.download_account import DownloadAccount
from pocketfl.device.hooks import SessionEnd, SessionHooks
from pocketfl.device.recovery import settle_orphans
from pocketfl.device.sessions import TABLES as SESSION_TABLES
from pocketfl.device.sessions import Session
from pocketfl.funnel.log import TABLES as FUNNEL_TABLES
from pocketfl.ledger import Ledger, Outcome
from pocketfl.ledger.tables import LEDGER as LEDGER_TABLES
from pocketfl.plan.manifest import Manifest
from pocketfl.reasons import Reason
from pocketfl.receipts import REPORT_KINDS, Contribution, Receipts
from pocketfl.receipts.tables import TABLES as RECEIPT_TABLES
from pocketfl.reports import SealedReport
from pocketfl.training import TrainingState
from pocketfl.transport import DownloadWatch, Transport

_LEDGER_OUTCOMES: dict[SessionEnd, Outcome] = {
    "accepted": "sent",
    # The bytes were with the server, whatever it said about them.
    "rejected": "sent",
    "abandoned": "unsent",
    "unknown": "unknown",
}


def prepare_tables(database: Database) -> None:
    """Make the tables that a session writes to, rather than in the first one."""
    with database.transaction():
        for tables in (SESSION_TABLES, LEDGER_TABLES, RECEIPT_TABLES, FUNNEL_TABLES):
            database.ensure(tables)


class Guardrails(SessionHooks):
    """Holds one device's sessions to its conditions and budgets, and keeps their accounts.

    Parameters
    ----------
    database : Database
        The device's file.
    transport : Transport
        Whose traffic is charged and accounted for.
    admission : Admission
        What stands against a session.
    ledger : Ledger
        What its rounds cost.
    meter : callable
        Makes the meter of a session.
    hard_stop_seconds : float or None
        How long a broken condition may last until the step under way is cancelled; None leaves it to
        end by itself.
    evidence : str
        What is checked before a trusted tier's key is believed, for receipts.
    inner : SessionHooks
        The app's own hooks, which hear of everything as well.
    clock : callable
        Unix time in seconds.
    """

    def __init__(
        self,
        database: Database,
        *,
        transport: Transport,
        admission: Admission,
        ledger: Ledger,
        meter: Callable[[], Meter],
        hard_stop_seconds: float | None,
        evidence: str,
        inner: SessionHooks,
        clock: Callable[[], float],
    ) -> None:
        self._database = database
        self._transport = transport
        self._admission = admission
        self._ledger = ledger
        self._hard_stop_seconds = hard_stop_seconds
        self._evidence = evidence
        self._inner = inner
        self._clock = clock
        self._stopped = threading.Event()
        admission.switch.subscribe(lambda _: self.stop())
        self._receipts: Receipts | None = None
        self._account = SessionAccount(
            ledger, admission=admission, transport=transport, meter=meter, clock=clock
        )
        self._downloads = DownloadAccount(
            ledger,
            admission=admission,
            account=self._account,
            meter=meter,
            settle_orphans=self._settle_orphans,
        )
        self._running: _Running | None = None
        self._stop_reasons: tuple[Reason, ...] = ()
        # Whether a session that waits may have lost its record, in an earlier process or in this one.
        self._may_have_orphans = True
        self._resumed_manifest: Manifest | None = None

    # Before a session.

    def begin_run(self) -> None:
        """Forget that an earlier run was told to stop."""
        self._stopped.clear()
        self._stop_reasons = ()

    def stop(self) -> None:
        """Have the session under way stop at its next batch."""
        self._stopped.set()

    def prepare_tables(self) -> None:
        """Make the tables that a session writes to, rather than in the first one."""
        prepare_tables(self._database)

    @property
    def has_receipts(self) -> bool:
        """Whether this process has written or read receipts yet."""
        return self._receipts is not None

    @property
    def receipts(self) -> Receipts:
        """The device's receipts; not to be asked for the first time inside a transaction."""
        if self._receipts is None:
            transport = self._transport
            self._receipts = Receipts(
                self._database, traffic=lambda: transport.traffic, clock=self._clock
            )
        return self._receipts

    def require_resumable(self, session: Session, manifest: Manifest | None) -> None:
        """Refuse to go on with a session while a condition is not met; it keeps waiting.

        Parameters
        ----------
        session : Session
            That waits.
        manifest : Manifest or None
            Its plan's, where the device has that; taken to hold for the session that goes on next.

        Raises
        ------
        RoundEnd
            With every reason, and when to look again.
        """
        self._resumed_manifest = manifest
        self._admission.require_resumable(session, manifest)

    def require(
        self,
        manifest: Manifest,
        *,
        task: str,
        round: int,  # noqa: A002
    ) -> None:
        """Refuse to take part now if anything stands against it.

        Raises
        ------
        RoundEnd
            With every reason, and when to look again.
        """
        self._settle_orphans()
        self._admission.require(manifest, task=task, round=round)

    def _settle_orphans(self) -> None:
        # What writes inside of transactions later on makes its tables now.
        receipts = self.receipts
        if self._may_have_orphans:
            settle_orphans(self._database, ledger=self._ledger, receipts=receipts)
            self._may_have_orphans = False

    def fetching(
        self,
        *,
        task: str,
        round: int,  # noqa: A002
    ) -> AbstractContextManager[DownloadWatch]:
        """Charge what a block fetches; see :meth:`.DownloadAccount.charged`."""
        return self._downloads.charged(task=task, round=round)

    @property
    def stop_reasons(self) -> tuple[Reason, ...]:
        """What stopped the run; empty where nothing did, or the app told it to."""
        return self._stop_reasons

    def say_why(self, end: RoundEnd) -> None:
        """Add to the end of a session that was stopped what stopped it, and when to go on."""
        if end.code != "stopped":
            return
        self._stop_reasons = self._stop_reasons or self._admission.switched_off()
        if self._stop_reasons:
            end.reason = f"{end.reason}: {'; '.join(map(str, self._stop_reasons))}"
            end.retry_after = retry_after(self._stop_reasons)

    # The session, step by step.

    def began(
        self,
        session: Session,
        *,
        manifest: Manifest | None,
        resumed: bool,
        spent: Mapping[str, float],
    ) -> None:
        """Set amounts aside, or take up what an earlier run had set aside."""
        self._inner.began(session, manifest=manifest, resumed=resumed, spent=spent)
        self._running = None
        if resumed:
            manifest = self._resumed_manifest
        reasons = self._account.open(session, manifest, resumed=resumed)
        if reasons:
            # The lease is kept: a later run goes on with it, or abandons it when it has expired. Where
            # nobody will answer for a report any more, this is its last try, and it comes to an end.
            if not is_past_asking(session, now=self._clock()):
                self._stop_reasons = reasons
            return
        self._running = _Running(
            session=session,
            conditions=self._admission.conditions_of(manifest),
            watch=self._admission.watch(self._admission.conditions_of(manifest)),
        )

    def gives_up(self) -> str | None:
        """Say whether the round's own budget is used up: no other time will make room in it."""
        why = self._inner.gives_up()
        if why is not None or self._running is not None or not self._stop_reasons:
            return why
        # The switch, and conditions that are not met, pass; their reasons are not the ledger's.
        lasting = [reason for reason in self._stop_reasons if reason.retry_seconds is None]
        return "; ".join(map(str, lasting)) or None

    def opened(self, session: Session, manifest: Manifest) -> None:
        """Hold a resumed session to its plan's conditions, now that the plan is known."""
        self._inner.opened(session, manifest)
        running = self._running
        if running is None:
            return
        spec = self._admission.conditions_of(manifest)
        self._stop_reasons += check_conditions(self._admission.signals, spec, now=self._clock())
        running.conditions = spec
        running.watch = self._admission.watch(spec)

    def should_stop(self) -> bool:
        """Say whether a condition broke or a budget is used up; once it does, the session ends."""
        if self._stopped.is_set() or self._inner.should_stop():
            return True
        running = self._running
        if running is None or self._stop_reasons:
            return bool(self._stop_reasons)
        if self._admission.is_switched_off_elsewhere():
            self._stop_reasons = self._admission.switched_off()
        elif running.watch.should_stop():
            self._stop_reasons = running.watch.reasons
        else:
            over = self._account.step()
            self._stop_reasons = () if over is None else (over,)
        return bool(self._stop_reasons)

    @contextmanager
    def training(self, cancel: Callable[[], bool]) -> Iterator[None]:
        """Cancel a step that goes on for too long after a condition broke."""
        with self._inner.training(cancel):
            running = self._running
            if running is None or self._hard_stop_seconds is None:
                yield
                return
            running.watch = ConditionWatch(
                self._admission.signals,
                running.conditions,
                clock=self._clock,
                grace_seconds=self._hard_stop_seconds,
                on_hard_stop=cancel,
            )
            with running.watch:
                yield
            # After a step was cancelled nobody asks any more.
            self._stop_reasons = self._stop_reasons or running.watch.reasons

    def trained_batch(self, state: Callable[[], TrainingState]) -> None:
        """Tell the app's hooks."""
        self._inner.trained_batch(state)

    def spent(self) -> Mapping[str, float]:
        """Return what the app's hooks want kept; the ledger keeps the rest itself."""
        return self._inner.spent()

    def checkpointed(self, session: Session, *, spent: Mapping[str, float]) -> None:
        """Record what was used together with the checkpoint that it bought."""
        self._inner.checkpointed(session, spent=spent)
        self._account.record()

    def prepared(self, session: Session, report: SealedReport, manifest: Manifest) -> None:
        """Write the receipt of a report that is about to leave."""
        self._inner.prepared(session, report, manifest)
        aggregation, dp = manifest.aggregation, manifest.dp
        privacy: dict[str, float] = {}
        if dp is not None:
            delta = self._admission.delta_of(manifest)
            privacy = {
                "noise_multiplier": dp.noise_multiplier,
                "epsilon": epsilon_of(contribution_rho(dp.noise_multiplier), delta=delta),
                "epsilon_so_far": self._ledger.privacy(delta=delta).epsilon,
                "delta": delta,
            }
        self.receipts.prepare(
            Contribution(
                task=session.task,
                round=session.round,
                kind=REPORT_KINDS[manifest.kind],
                plan_name=manifest.name,
                plan_version=manifest.version,
                plan_sha256=session.notice.plan_sha256,
                model_version=session.notice.model_version,
                collection=session.collection,
                report_bytes=len(report.data),
                report_sha256=report.sha256,
                privacy=manifest.privacy,
                clip_norm=session.notice.clip_norm or aggregation.clip_norm,
                cohort_floor=aggregation.cohort_floor,
                aggregator_key_id=session.assignment.aggregator.key_id,
                attestation=self._evidence,
                **privacy,
            )
        )

    def settled(
        self,
        *,
        task: str,
        round: int,  # noqa: A002
        end: SessionEnd,
        code: str,
    ) -> None:
        """Close the account and the receipt."""
        self._inner.settled(task=task, round=round, end=end, code=code)
        if end in ("accepted", "rejected") and not self.receipts.has(task=task, round=round):
            # Damage took the receipt, and the session has to end all the same.
            self.receipts.account()
        else:
            self.receipts.settle(task=task, round=round, outcome=end, code=code)
        self._account.settle(task, round, outcome=_LEDGER_OUTCOMES[end])
        running = self._running
        if running is not None and (running.session.task, running.session.round) == (task, round):
            self._running = None

    def paused(self) -> None:
        """Record what an interrupted session has used; it may go on in another process."""
        self._inner.paused()
        # Its collection can be revoked while it waits.
        self._may_have_orphans = True
        running = self._running
        if running is None:
            self.receipts.account()
            return
        self.receipts.account(task=running.session.task, round=running.session.round)
        self._account.pause()
        self._running = None


class _Running:
    """What belongs to the session under way."""

    def __init__(
        self,
        *,
        session: Session,
        conditions: ConditionSpec,
        watch: ConditionWatch,
    ) -> None:
        self.session = session
        self.conditions = conditions
        self.watch = watch
