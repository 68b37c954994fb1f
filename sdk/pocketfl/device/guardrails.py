"""What keeps a session within the device's conditions and budgets, and writes its receipt.

The plan's conditions and budgets only tighten the app's, and the app's only tighten the SDK's own. They
are looked at before the coin is tossed, at every batch, and written down in the transactions that move
the session on.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache

from pocketfl.budgets import (
    FLOWS,
    Amounts,
    Budgets,
    Meter,
    agreed_budgets,
    contribution_rho,
    epsilon_of,
)
from pocketfl.conditions import (
    ConditionSpec,
    ConditionWatch,
    SignalProvider,
    Signals,
    check_conditions,
)
from pocketfl.database import Database
from pocketfl.device.attempt import RoundEnd
from pocketfl.device.hooks import SessionEnd, SessionHooks
from pocketfl.device.recovery import HoldBack, settle_orphans
from pocketfl.device.sessions import ASK_SECONDS, Session
from pocketfl.ledger import Ledger, Outcome, Refusal, Reservation, Spending, stride_of
from pocketfl.plan.manifest import Manifest
from pocketfl.reasons import Reason, combined_retry
from pocketfl.receipts import REPORT_KINDS, Contribution, Receipts
from pocketfl.reports import SealedReport, sealed_size
from pocketfl.scheduling.switch import KillSwitch
from pocketfl.training import TrainingState
from pocketfl.transport import Transport

_MESSAGE_BYTES = 8 * 2**10
"""What the small messages of a round come to at most: notices, check-in, receipt, and headers."""

_SWITCH_SECONDS = 1.0
"""How often a session looks whether another process of the app has switched training off."""

_LEDGER_OUTCOMES: dict[SessionEnd, Outcome] = {
    "accepted": "sent",
    # The bytes were with the server, whatever it said about them.
    "rejected": "sent",
    "abandoned": "unsent",
    "unknown": "unknown",
}


class Guardrails(SessionHooks):
    """One device's conditions, budgets, ledger and receipts.

    Parameters
    ----------
    database : Database
        The device's file.
    transport : Transport
        Whose traffic is charged and accounted for.
    signals : SignalProvider
        The device's state.
    conditions : ConditionSpec
        The app's; the plan's tighten them.
    budgets : Budgets
        The app's; the plan's tighten them.
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

    Raises
    ------
    ValueError
        If the app's budgets go beyond the SDK's hard bounds, naming the limit.
    """

    def __init__(
        self,
        database: Database,
        *,
        transport: Transport,
        signals: SignalProvider,
        conditions: ConditionSpec,
        budgets: Budgets,
        meter: Callable[[], Meter],
        hard_stop_seconds: float | None,
        evidence: str,
        inner: SessionHooks,
        clock: Callable[[], float],
    ) -> None:
        agreed_budgets(app=budgets)
        self._database = database
        self._transport = transport
        self._signals = _OneAtATime(signals)
        self._conditions = conditions
        self._budgets = budgets
        self._meter = meter
        self._hard_stop_seconds = hard_stop_seconds
        self._evidence = evidence
        self._inner = inner
        self._clock = clock
        self.ledger = Ledger(database, clock=clock)
        self._stopped = threading.Event()
        self.switch = KillSwitch(database)
        self.switch.subscribe(lambda _: self.stop())
        self._receipts: Receipts | None = None
        # Traffic between two sessions, such as looking for rounds, is charged to the next one.
        self._charged = transport.traffic
        self._running: _Running | None = None
        self._stop_reasons: tuple[Reason, ...] = ()
        self._switch_seen_at = time.monotonic()
        self._stride = stride_of()
        self._hold_back = HoldBack(database, clock=clock)
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

    def objections(
        self,
        manifest: Manifest | None,
        *,
        task: str,
        round: int,  # noqa: A002
        resuming: bool = False,
    ) -> tuple[Reason, ...]:
        """Return what stands against taking part now, the switch apart; empty when nothing does.

        Without a manifest, because no plan is known yet, only the app's own limits are looked at. A
        session that waits to go on has its budget already.
        """
        reasons = self._hold_back.reasons() + self._unmet(manifest)
        if resuming:
            return reasons
        return reasons + self._over_budget(manifest, task=task, round=round)

    def require_allowed(self) -> None:
        """Refuse to do anything while training is switched off, or the device holds back.

        Raises
        ------
        RoundEnd
            Saying why.
        """
        _refuse("disabled", self._switched_off())
        _refuse("memory_lost", self._hold_back.reasons())

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
        # Where nobody will answer for a report any more, what is left to do is to end it.
        if not is_past_asking(session, now=self._clock()):
            _refuse("conditions", self._unmet(manifest), resumable=True)

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
        # What writes inside of transactions later on makes its tables now.
        receipts = self.receipts
        if self._may_have_orphans:
            settle_orphans(self._database, ledger=self.ledger, receipts=receipts)
            self._may_have_orphans = False
        _refuse("conditions", self._unmet(manifest))
        _refuse("budget", self._over_budget(manifest, task=task, round=round))

    def say_why(self, end: RoundEnd) -> None:
        """Add to the end of a session that was stopped what stopped it, and when to go on."""
        if end.code != "stopped":
            return
        self._stop_reasons = self._stop_reasons or self._switched_off()
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
        kept = self._find_reservation(session.task, session.round) if resumed else None
        if kept is not None:
            reservation = self.ledger.resume(
                kept,
                needs=Amounts(),
                budgets=self._budgets_of(manifest),
                wants=_rest(kept),
                stride=self._stride,
            )
        else:
            reservation = self.ledger.reserve(
                task=session.task,
                round=session.round,
                needs=self._needs(manifest),
                budgets=self._budgets_of(manifest),
                stride=self._stride,
                noise_multiplier=_noise_of(manifest),
                adds_up=_adds_up(manifest),
                # A report that may have arrived is asked about for some time after its lease.
                lifetime_seconds=max(0.0, session.assignment.expires_at - self._clock())
                + ASK_SECONDS,
            )
        if isinstance(reservation, Refusal):
            # The lease is kept: a later run goes on with it, or abandons it when it has expired. Where
            # nobody will answer for a report any more, this is its last try, and it comes to an end.
            if not is_past_asking(session, now=self._clock()):
                self._stop_reasons = reservation.reasons
            return
        meter = self._meter()
        self._running = _Running(
            session=session,
            spending=Spending(self.ledger, reservation, meter),
            meter=meter,
            conditions=self._conditions_of(manifest),
            watch=self._watch(self._conditions_of(manifest)),
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
        spec = self._conditions_of(manifest)
        self._stop_reasons += check_conditions(self._signals, spec, now=self._clock())
        running.conditions = spec
        running.watch = self._watch(spec)

    def should_stop(self) -> bool:
        """Say whether a condition broke or a budget is used up; once it does, the session ends."""
        if self._stopped.is_set() or self._inner.should_stop():
            return True
        running = self._running
        if running is None or self._stop_reasons:
            return bool(self._stop_reasons)
        if self._is_switched_off_elsewhere():
            self._stop_reasons = self._switched_off()
        elif running.watch.should_stop():
            self._stop_reasons = running.watch.reasons
        else:
            self._charge_traffic(running)
            over = running.spending.step()
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
                self._signals,
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
        if self._running is not None:
            self._charge_traffic(self._running)
            self._running.spending.record()

    def prepared(self, session: Session, report: SealedReport, manifest: Manifest) -> None:
        """Write the receipt of a report that is about to leave."""
        self._inner.prepared(session, report, manifest)
        aggregation, dp = manifest.aggregation, manifest.dp
        privacy: dict[str, float] = {}
        if dp is not None:
            delta = self._delta_of(manifest)
            privacy = {
                "noise_multiplier": dp.noise_multiplier,
                "epsilon": epsilon_of(contribution_rho(dp.noise_multiplier), delta=delta),
                "epsilon_so_far": self.ledger.privacy(delta=delta).epsilon,
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
                clip_norm=aggregation.clip_norm,
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
        if end in ("accepted", "rejected") and self.receipts.find(task=task, round=round) is None:
            # Damage took the receipt, and the session has to end all the same.
            self.receipts.account()
        else:
            self.receipts.settle(task=task, round=round, outcome=end, code=code)
        running = self._running
        if running is not None and (running.session.task, running.session.round) == (task, round):
            self._charge_traffic(running)
            running.spending.finish(outcome=_LEDGER_OUTCOMES[end])
            self._running = None
            return
        kept = self._find_reservation(task, round)
        if kept is not None:
            self.ledger.settle(kept, outcome=_LEDGER_OUTCOMES[end])

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
        self._charge_traffic(running)
        running.spending.pause()
        self._running = None

    # What holds.

    def _watch(self, spec: ConditionSpec) -> ConditionWatch:
        return ConditionWatch(self._signals, spec, clock=self._clock)

    def _switched_off(self) -> tuple[Reason, ...]:
        why = self.switch.reason
        if why is None:
            return ()
        return (
            Reason(condition="training", observed=f"switched off ({why})", required="switched on"),
        )

    def _is_switched_off_elsewhere(self) -> bool:
        now = time.monotonic()
        if now - self._switch_seen_at < _SWITCH_SECONDS:
            return False
        self._switch_seen_at = now
        return self.switch.reason is not None

    def _unmet(self, manifest: Manifest | None) -> tuple[Reason, ...]:
        return check_conditions(self._signals, self._conditions_of(manifest), now=self._clock())

    def _over_budget(
        self,
        manifest: Manifest | None,
        *,
        task: str,
        round: int,  # noqa: A002
    ) -> tuple[Reason, ...]:
        return self.ledger.check(
            task=task,
            round=round,
            # What the reservation will ask for, so that nothing begins that has to stop at once.
            needs=self._needs(manifest) + self._stride,
            budgets=self._budgets_of(manifest),
            noise_multiplier=_noise_of(manifest),
            adds_up=_adds_up(manifest),
        )

    def _conditions_of(self, manifest: Manifest | None) -> ConditionSpec:
        if manifest is None:
            return self._conditions
        return _agreed_conditions(manifest.eligibility.conditions, self._conditions)

    def _budgets_of(self, manifest: Manifest | None) -> Budgets:
        plan = None if manifest is None else manifest.eligibility.budgets
        return _agreed_budgets(self._budgets, plan)

    def _delta_of(self, manifest: Manifest) -> float:
        delta = self._budgets_of(manifest).delta
        if delta is None:
            raise ValueError("the hard bounds name a delta")
        return delta

    def _needs(self, manifest: Manifest | None) -> Amounts:
        """Return the least that a round takes: one report, and what has to go over the network."""
        if manifest is None:
            return Amounts(contributions=1)
        report_bytes = sealed_size(manifest.vector_length)
        return Amounts(contributions=1, bytes_up=report_bytes + _MESSAGE_BYTES)

    def _find_reservation(self, task: str, number: int) -> Reservation | None:
        for kept in self.ledger.unsettled():
            if (kept.task, kept.round) == (task, number):
                return kept
        return None

    def _charge_traffic(self, running: _Running) -> None:
        total = self._transport.traffic
        # A count is replaced when it changes, so most of the time there is nothing to compare.
        if total is self._charged:
            return
        new, self._charged = total - self._charged, total
        running.meter.add_bytes(up=new.bytes_up, down=new.bytes_down, metered=self._is_metered())

    def _is_metered(self) -> bool | None:
        try:
            return self._signals.read().metered
        except Exception:  # An app's own provider may raise anything; the bytes are charged anyway.
            return None


class _OneAtATime:
    """Keeps the training thread, its watch and :meth:`Device.explain` from asking at once."""

    def __init__(self, provider: SignalProvider) -> None:
        self._provider = provider
        self._lock = threading.Lock()

    def read(self) -> Signals:
        with self._lock:
            return self._provider.read()


class _Running:
    """What belongs to the session under way."""

    def __init__(
        self,
        *,
        session: Session,
        spending: Spending,
        meter: Meter,
        conditions: ConditionSpec,
        watch: ConditionWatch,
    ) -> None:
        self.session = session
        self.conditions = conditions
        self.spending = spending
        self.meter = meter
        self.watch = watch


def retry_after(reasons: tuple[Reason, ...]) -> float | None:
    """Draw when to look again: when the last of the reasons may be gone; None if one never will."""
    window = combined_retry(reasons)
    return None if window is None else random.uniform(*window)  # noqa: S311


@lru_cache(maxsize=64)
def _agreed_conditions(plan: ConditionSpec, app: ConditionSpec) -> ConditionSpec:
    return plan.tightened(app)


@lru_cache(maxsize=64)
def _agreed_budgets(app: Budgets, plan: Budgets | None) -> Budgets:
    return agreed_budgets(app=app, plan=plan)


def _noise_of(manifest: Manifest | None) -> float | None:
    return None if manifest is None or manifest.dp is None else manifest.dp.noise_multiplier


def _adds_up(manifest: Manifest | None) -> bool:
    return manifest is None or not manifest.is_daily


def is_past_asking(session: Session, *, now: float) -> bool:
    """Return whether nobody will say any more what became of a session's report."""
    return now > session.assignment.expires_at + ASK_SECONDS


def _refuse(code: str, reasons: tuple[Reason, ...], *, resumable: bool = False) -> None:
    if reasons:
        why = "; ".join(map(str, reasons))
        raise RoundEnd(
            "ineligible", code, why, retry_after=retry_after(reasons), resumable=resumable
        )


def _rest(kept: Reservation) -> Amounts:
    """Return what may still be used, so that the round never comes to more than it was granted.

    A process that died may have used a stride beyond what it recorded. The highest levels do not add
    up: what was granted of them holds on.
    """
    left = [
        max(0.0, granted - spent - stride)
        for granted, spent, stride in zip(
            kept.granted.values(), kept.spent.values(), kept.stride.values(), strict=True
        )
    ]
    return Amounts.of((*left[: len(FLOWS)], *kept.granted.values()[len(FLOWS) :]))
