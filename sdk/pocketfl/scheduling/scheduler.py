"""The scheduler: one session at a time, when its time has come, each task in its turn."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final, Generic, Protocol, TypeVar

from pocketfl.database import Database
from pocketfl.protocol import check_identifier
from pocketfl.reasons import Reason
from pocketfl.scheduling.calendar import EVERYTHING, Calendar, Entry
from pocketfl.scheduling.lock import SessionLock
from pocketfl.scheduling.pacing import Delay, Outcome, Pacing, judge
from pocketfl.scheduling.switch import KillSwitch

OutcomeT = TypeVar("OutcomeT", bound=Outcome)
OutcomeT_co = TypeVar("OutcomeT_co", bound=Outcome, covariant=True)

BUSY_SECONDS: Final = 60.0
"""After which it is worth looking whether another process has ended its session."""

_ANY_TASK: Final = (
    "*"  # the turn of an app that leaves the choice to the device; no task has the name
)
_CHEAP: Final = frozenset({"no_round", "not_sampled", "ineligible", "turned_away", "cap_reached"})


class Participant(Protocol[OutcomeT_co]):
    """What the scheduler runs; a :class:`~pocketfl.device.Device` is one."""

    def run_once(self, *, task: str | None = None) -> OutcomeT_co:
        """Take part in one open round of a task, or of any."""


@dataclass(frozen=True, kw_only=True)
class Decision:
    """Whether a session may begin now.

    Attributes
    ----------
    due : bool
        Whether it may.
    task : str or None
        Whose turn it is; None for any task, and where nothing is due.
    reasons : tuple of Reason
        Why nothing is due; empty when something is.
    next_attempt : float or None
        Unix time in seconds of the next try; None while training is switched off.
    """

    due: bool
    task: str | None = None
    reasons: tuple[Reason, ...] = ()
    next_attempt: float | None


class Scheduler(Generic[OutcomeT]):
    """Decides when a device tries to take part, and remembers it over restarts.

    Parameters
    ----------
    participant : Participant
        What is run.
    database : Database
        The device's file. Make the scheduler outside of a transaction.
    tasks : iterable of str, or callable that returns one
        The tasks that take turns; without any, the device takes the first round that is open.
    pacing : Pacing, optional
        Waits where the server is silent.
    switch : KillSwitch, optional
        The app's own, if it has one already.
    clock : callable, optional
        Unix time in seconds.
    uniform : callable, optional
        Draws between two bounds.

    Attributes
    ----------
    switch : KillSwitch
        The app's own switch.

    Notes
    -----
    The least recently served task comes first. A task that has nothing to do, or no place for this
    device, passes its turn on at once and keeps its place in the queue.
    """

    def __init__(
        self,
        participant: Participant[OutcomeT],
        *,
        database: Database,
        tasks: Iterable[str] | Callable[[], Iterable[str]] = (),
        pacing: Pacing | None = None,
        switch: KillSwitch | None = None,
        clock: Callable[[], float] = time.time,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._participant = participant
        listed = tasks if callable(tasks) else tuple(tasks)
        self._tasks: Callable[[], Iterable[str]] = listed if callable(listed) else lambda: listed
        self._pacing = pacing if pacing is not None else Pacing()
        self._clock = clock
        self._uniform = uniform
        self._calendar = Calendar(database)
        self._lock = SessionLock(database.path)
        self._in_process = threading.Lock()
        self.switch: Final = switch if switch is not None else KillSwitch(database)

    @property
    def next_attempt(self) -> float | None:
        """Unix time in seconds of the next try; None while training is switched off."""
        return self.decide().next_attempt

    def decide(self) -> Decision:
        """Return whether a session may begin now, whose, and otherwise why not and when."""
        return self._decide(frozenset())

    def run_due(self) -> tuple[OutcomeT, ...]:
        """Run what is due, unless a session is under way in this process or another.

        Returns
        -------
        tuple
            What became of each task that was tried, in order: those that had nothing to do, and at most
            one that had. Empty if nothing was due or a session is under way.

        Raises
        ------
        StoreError
            If the store's folder cannot hold a lock.
        """
        if not self._in_process.acquire(blocking=False):
            return ()
        try:
            if not self._lock.acquire():
                return ()
            with self._lock:
                return self._run_turns()
        finally:
            self._in_process.release()

    def run_until(self, stop: threading.Event) -> None:
        """Run what is due, whenever it is, until an event is set; for a thread of the app's own."""
        while not stop.is_set():
            ran = self.run_due()
            wait = self._seconds_to_wait(ran=bool(ran))
            stop.wait(wait)

    def retry_now(self) -> None:
        """Forget the waits that this device chose itself, for one because it was just plugged in.

        What the server asked for is kept.
        """
        self._calendar.forget_own_waits()

    def order(self, tasks: Iterable[str]) -> tuple[str, ...]:
        """Return tasks as they take turns: the least recently served first, else as given."""
        names = list(tasks)
        entries = self._calendar.entries(names, now=self._clock())
        return tuple(sorted(names, key=lambda name: entries[name].turn))

    def take_turn(self, task: str) -> None:
        """Put a task at the end of the queue, as its session begins."""
        self._calendar.take_turn({task}, now=self._clock())

    def _run_turns(self) -> tuple[OutcomeT, ...]:
        outcomes: list[OutcomeT] = []
        tried: set[str] = set()
        while True:
            # Looked at under the lock only: another process may just have had the session.
            decision = self._decide(frozenset(tried))
            if not decision.due:
                return tuple(outcomes)
            slot = decision.task if decision.task is not None else _ANY_TASK
            tried.add(slot)
            try:
                outcome = self._participant.run_once(task=decision.task)
            except BaseException:
                self._put_off_after_crash(slot)
                raise
            outcomes.append(outcome)
            delay = judge(outcome, pacing=self._pacing, uniform=self._uniform)
            self._record(slot, outcome, delay)
            if delay.everything or outcome.status not in _CHEAP or tried.issuperset(self._slots()):
                return tuple(outcomes)

    def _decide(self, without: frozenset[str]) -> Decision:
        reason = self.switch.reason
        if reason is not None:
            off = Reason(
                condition="training", observed=f"switched off ({reason})", required="switched on"
            )
            return Decision(due=False, reasons=(off,), next_attempt=None)
        now = self._clock()
        slots = self._slots()
        entries = self._calendar.entries(slots, now=now)
        everything = entries[EVERYTHING]
        if everything.not_before > now:
            return Decision(
                due=False,
                reasons=(_waiting(everything, now=now, whose=""),),
                next_attempt=max(
                    everything.not_before, min(entries[slot].not_before for slot in slots)
                ),
            )
        due = [slot for slot in slots if slot not in without and entries[slot].not_before <= now]
        if due:
            first = min(due, key=lambda slot: entries[slot].turn)
            task = None if first == _ANY_TASK else first
            return Decision(due=True, task=task, next_attempt=now)
        waiting = sorted(slots, key=lambda slot: entries[slot].not_before)
        return Decision(
            due=False,
            reasons=tuple(
                _waiting(entries[slot], now=now, whose="" if slot == _ANY_TASK else slot)
                for slot in waiting
            ),
            next_attempt=max(now, entries[waiting[0]].not_before),
        )

    def _slots(self) -> tuple[str, ...]:
        tasks = tuple(dict.fromkeys(self._tasks()))
        for task in tasks:
            check_identifier(task, what="task")
        return tasks or (_ANY_TASK,)

    def _record(self, slot: str, outcome: OutcomeT, delay: Delay) -> None:
        now = self._clock()
        served = outcome.status not in _CHEAP and not delay.everything
        self._calendar.put_off(
            EVERYTHING if delay.everything else slot,
            now=now,
            seconds=delay.seconds,
            verdict=delay.verdict,
            why=outcome.reason,
        )
        if served:
            # The device chose the task where the app did not.
            self._calendar.take_turn({slot, outcome.task or slot}, now=now)

    def _put_off_after_crash(self, slot: str) -> None:
        now = self._clock()
        spread = self._pacing.jitter * self._pacing.transient
        self._calendar.put_off(
            slot,
            now=now,
            seconds=self._pacing.transient + self._uniform(-spread, spread),
            verdict="transient",
            why="the last session ended with an error of the program",
        )
        self._calendar.take_turn({slot}, now=now)

    def _seconds_to_wait(self, *, ran: bool) -> float:
        next_attempt = self.next_attempt
        if next_attempt is None:
            return BUSY_SECONDS
        wait = next_attempt - self._clock()
        if wait <= 0:
            # Due, and yet nothing ran: another process has the session.
            return 0.0 if ran else BUSY_SECONDS
        # A clock that is set back meanwhile is noticed within the hour.
        return min(wait, 3600.0)


def _waiting(entry: Entry, *, now: float, whose: str) -> Reason:
    left = max(0.0, entry.not_before - now)
    return Reason(
        condition=f"schedule of {whose}" if whose else "schedule",
        observed=f"waiting ({entry.why})",
        required=f"{_duration(left)} more",
        retry_seconds=(left, left),
    )


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
