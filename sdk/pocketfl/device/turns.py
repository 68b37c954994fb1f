"""A device's turn: it goes on with a session that waits, or begins one in a round that is open."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Final, Protocol

from pocketfl.database import Database
from pocketfl.device.admission import Admission
from pocketfl.device.attempt import Attempt, RoundEnd
from pocketfl.device.contribution import Contribution, KeptBack, kept_back
from pocketfl.device.guardrails import Guardrails
from pocketfl.device.leases import Leases
from pocketfl.device.objections import known_plan, manifest_of
from pocketfl.device.rounds import RoundChoice
from pocketfl.device.sessions import PendingSession
from pocketfl.device.sources import ModelSource
from pocketfl.errors import TransportError
from pocketfl.protocol import Pause
from pocketfl.transport import Transport

_NOTHING_BEGAN: Final = frozenset({"no_round", "not_sampled", "cap_reached", "ineligible"})
"""How a turn ends that asked no server for a place."""


class TaskQueue(Protocol):
    """In which order tasks take turns."""

    def order(self, tasks: Iterable[str]) -> tuple[str, ...]:
        """Return tasks as they take turns."""

    def take_turn(self, task: str) -> None:
        """Put a task at the end of the queue."""


class Turns:
    """Takes one device's turns.

    Parameters
    ----------
    database : Database
        The device's file.
    transport : Transport
        The line to the back end.
    admission : Admission
        What stands against a session.
    guardrails : Guardrails
        What holds for a session that goes on.
    choice : RoundChoice
        Which open round it is.
    leases : Leases
        Places in rounds.
    contribution : Contribution
        Takes sessions to their end.
    source : ModelSource
        Plans and models.
    scheduler : callable
        Returns whose turn it is among tasks; made when it is first asked for.
    """

    def __init__(
        self,
        database: Database,
        transport: Transport,
        *,
        admission: Admission,
        guardrails: Guardrails,
        choice: RoundChoice,
        leases: Leases,
        contribution: Contribution,
        source: ModelSource,
        scheduler: Callable[[], TaskQueue],
    ) -> None:
        self._database = database
        self._transport = transport
        self._admission = admission
        self._guardrails = guardrails
        self._choice = choice
        self._leases = leases
        self._contribution = contribution
        self._source = source
        self._scheduler = scheduler

    def take(self, attempt: Attempt, task: str | None) -> None:
        """Take part in one round of a task, or of any.

        Raises
        ------
        RoundEnd
            If it does not end in a report that the back end holds.
        """
        self._admission.require_allowed()
        found, waiting = self._contribution.find_pending(task=task)
        held: dict[str, RoundEnd] = {}
        for pending in found:
            try:
                self._let_resume(attempt, pending)
            except RoundEnd as end:
                held.setdefault(pending.task, end)
            else:
                self._contribution.resume(attempt, pending)
                return
        waits = next(iter(held.values()), None)
        # What the app itself asks for holds for every task, and no server need be asked.
        if waits is not None and self._admission.unmet(None):
            raise waits
        try:
            self._begin_round(attempt, task, waiting=waiting, held=held)
        except RoundEnd as end:
            if waits is None or end.status not in _NOTHING_BEGAN:
                raise
            # No other round came of it: what there is to say is why the session waits.
            attempt.notice = next(p.session.notice for p in found if p.session is not None)
            raise waits from None

    def _begin_round(
        self,
        attempt: Attempt,
        task: str | None,
        *,
        waiting: KeptBack,
        held: Mapping[str, RoundEnd],
    ) -> None:
        """Take part in a new round: of a task that has no session which is held up."""
        try:
            with attempt.phase("notices"):
                announced = self._transport.notices()
        except TransportError:
            if held:
                raise RoundEnd("no_round", "no_round", "no round is known") from None
            raise
        _obey(announced.pause_of(task), resumable=bool(held))
        notices = [
            n
            for n in announced.notices
            if announced.pause_of(n.task) is None
            and (n.task, n.round) not in waiting
            and n.task not in held
        ]
        takes_turns = task is None and len(notices) > 1
        if takes_turns:
            turns = self._scheduler().order([n.task for n in notices])
            notices.sort(key=lambda notice: turns.index(notice.task))
        try:
            notice, opened = self._choice.choose(attempt, notices, task=task)
        except RoundEnd as end:
            if waiting and end.status in ("no_round", "not_sampled"):
                raise kept_back(min(waiting.values())) from end
            raise
        with attempt.phase("check_in"):
            session = self._leases.take(notice, opened)
            with self._database.transaction():
                self._contribution.begin(session, opened.plan.manifest)
                if takes_turns:
                    self._scheduler().take_turn(session.task)
        self._contribution.run(attempt, session, opened)

    def _let_resume(self, attempt: Attempt, pending: PendingSession) -> None:
        """Leave a session waiting while a condition or a pause stands against going on.

        Raises
        ------
        RoundEnd
            Saying which.
        """
        session = pending.session
        if session is None:
            raise ValueError("a damaged session cannot be resumed")
        attempt.notice = session.notice
        opened = known_plan(self._source, session.notice.plan_sha256)
        self._guardrails.require_resumable(session, manifest_of(opened))
        # Training goes on without a network, and a pause of which the device cannot know.
        with suppress(TransportError), attempt.phase("notices"):
            _obey(self._transport.notices().pause_of(session.task), resumable=True)


def _obey(pause: Pause | None, *, resumable: bool = False) -> None:
    """Keep away for as long as the server asks."""
    if pause is not None:
        raise RoundEnd(
            "turned_away",
            pause.code,
            f"the server asks for a pause ({pause.reason})",
            retry_after=random.uniform(pause.min_seconds, pause.max_seconds),  # noqa: S311
            resumable=resumable,
        )
