"""Whether this device may take part now: the switch, a lost memory, conditions and budgets.

The plan's conditions and budgets only tighten the app's, and the app's only tighten the SDK's own.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from functools import lru_cache
from typing import Final

from pocketfl.budgets import Amounts, Budgets, agreed_budgets
from pocketfl.conditions import (
    ConditionSpec,
    ConditionWatch,
    SignalProvider,
    Signals,
    check_conditions,
)
from pocketfl.database import Database
from pocketfl.device.attempt import RoundEnd
from pocketfl.device.recovery import HoldBack
from pocketfl.device.sessions import ASK_SECONDS, Session
from pocketfl.ledger import Ledger, stride_of
from pocketfl.plan.manifest import Manifest
from pocketfl.reasons import Reason, combined_retry
from pocketfl.reports import report_size
from pocketfl.scheduling.switch import KillSwitch

_MESSAGE_BYTES = 8 * 2**10
"""What the small messages of a round come to at most: notices, check-in, receipt, and headers."""

_RECENT_SECONDS = 2.0
"""How long a look at the link holds for bytes that go over it; as often as conditions are polled."""

_SWITCH_SECONDS = 1.0
"""How often a session looks whether another process of the app has switched training off."""


class Admission:
    """What stands against taking part: nothing, or reasons that say when to look again.

    Parameters
    ----------
    database : Database
        The device's file.
    ledger : Ledger
        What the device's rounds cost so far.
    signals : SignalProvider
        The device's state; asked by one thread at a time.
    conditions : ConditionSpec
        The app's; the plan's tighten them.
    budgets : Budgets
        The app's; the plan's tighten them.
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
        ledger: Ledger,
        signals: SignalProvider,
        conditions: ConditionSpec,
        budgets: Budgets,
        clock: Callable[[], float],
    ) -> None:
        agreed_budgets(app=budgets)
        self.signals: Final = _OneAtATime(signals, clock=clock)
        self.switch = KillSwitch(database)
        self.stride = stride_of()
        self._ledger = ledger
        self._conditions = conditions
        self._budgets = budgets
        self._clock = clock
        self._switch_seen_at = time.monotonic()
        self._hold_back = HoldBack(database, clock=clock)

    # What stands against it.

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
        reasons = self._hold_back.reasons() + self.unmet(manifest)
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
        _refuse("disabled", self.switched_off())
        _refuse("memory_lost", self._hold_back.reasons())

    def require_resumable(self, session: Session, manifest: Manifest | None) -> None:
        """Refuse to go on with a session while a condition is not met; it keeps waiting.

        Raises
        ------
        RoundEnd
            With every reason, and when to look again.
        """
        # Where nobody will answer for a report any more, what is left to do is to end it.
        if not is_past_asking(session, now=self._clock()):
            _refuse("conditions", self.unmet(manifest), resumable=True)

    def require(
        self,
        manifest: Manifest,
        *,
        task: str,
        round: int,  # noqa: A002
    ) -> None:
        """Refuse to take part now if a condition or a budget stands against it.

        Raises
        ------
        RoundEnd
            With every reason, and when to look again.
        """
        _refuse("conditions", self.unmet(manifest))
        _refuse("budget", self._over_budget(manifest, task=task, round=round))

    def unmet(self, manifest: Manifest | None) -> tuple[Reason, ...]:
        """Return the conditions that are not met now."""
        return check_conditions(self.signals, self.conditions_of(manifest), now=self._clock())

    def switched_off(self) -> tuple[Reason, ...]:
        """Return that training is switched off, if it is."""
        why = self.switch.reason
        if why is None:
            return ()
        return (
            Reason(condition="training", observed=f"switched off ({why})", required="switched on"),
        )

    def is_switched_off_elsewhere(self) -> bool:
        """Say whether another process of the app has switched training off; looks now and then."""
        now = time.monotonic()
        if now - self._switch_seen_at < _SWITCH_SECONDS:
            return False
        self._switch_seen_at = now
        return self.switch.reason is not None

    def _over_budget(
        self,
        manifest: Manifest | None,
        *,
        task: str,
        round: int,  # noqa: A002
    ) -> tuple[Reason, ...]:
        return self._ledger.check(
            task=task,
            round=round,
            # What the reservation will ask for, so that nothing begins that has to stop at once.
            needs=self.needs(manifest) + self.stride,
            budgets=self.budgets_of(manifest),
            noise_multiplier=noise_of(manifest),
            adds_up=adds_up(manifest),
        )

    # What holds.

    def conditions_of(self, manifest: Manifest | None) -> ConditionSpec:
        """Return the conditions that hold for a plan."""
        if manifest is None:
            return self._conditions
        return _agreed_conditions(manifest.eligibility.conditions, self._conditions)

    def watch(self, spec: ConditionSpec) -> ConditionWatch:
        """Return what looks at the conditions of a session under way."""
        return ConditionWatch(self.signals, spec, clock=self._clock)

    def budgets_of(self, manifest: Manifest | None) -> Budgets:
        """Return the budgets that hold for a plan."""
        plan = None if manifest is None else manifest.eligibility.budgets
        return _agreed_budgets(self._budgets, plan)

    def delta_of(self, manifest: Manifest) -> float:
        """Return at which delta this device states its privacy loss."""
        delta = self.budgets_of(manifest).delta
        if delta is None:
            raise ValueError("the hard bounds name a delta")
        return delta

    def needs(self, manifest: Manifest | None) -> Amounts:
        """Return the least that a round takes: one report, and what has to go over the network."""
        if manifest is None:
            return Amounts(contributions=1)
        report_bytes = report_size(manifest)
        return Amounts(contributions=1, bytes_up=report_bytes + _MESSAGE_BYTES)

    def is_metered(self) -> bool | None:
        """Say whether the link costs money, by a look of the last seconds; None where not known."""
        try:
            return self.signals.read_recent().metered
        except Exception:  # An app's own provider may raise anything; the bytes are charged anyway.
            return None


class _OneAtATime:
    """Keeps the training thread, its watch and :meth:`Device.explain` from asking at once."""

    def __init__(self, provider: SignalProvider, *, clock: Callable[[], float]) -> None:
        self._provider = provider
        self._clock = clock
        self._lock = threading.Lock()
        self._last: tuple[float, Signals] | None = None

    def read(self) -> Signals:
        with self._lock:
            # A look that fails leaves nothing known.
            self._last = None
            signals = self._provider.read()
            self._last = self._clock(), signals
            return signals

    def read_recent(self) -> Signals:
        """Return what was read a moment ago, or read it now: each look costs a millisecond or so."""
        last = self._last
        if last is not None and 0 <= self._clock() - last[0] < _RECENT_SECONDS:
            return last[1]
        return self.read()


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


def noise_of(manifest: Manifest | None) -> float | None:
    """Return a plan's noise multiplier; None without a plan, or without differential privacy."""
    return None if manifest is None else manifest.contribution_noise_multiplier


def adds_up(manifest: Manifest | None) -> bool:
    """Return whether what a plan's reports reveal adds up over the year."""
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
