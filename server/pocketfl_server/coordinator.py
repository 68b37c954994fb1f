"""Ending a round: hand its sealed reports over, have their sum released, apply it, forget.

Every step is durable before the next begins and may be repeated, so after a crash between any two of
them :meth:`Coordinator.close` simply continues:

1. ``open`` -> ``closing``: from here on no report is taken in.
2. Sealed reports go to the trusted tier in batches, in the order of their random leases and not of
   their arrival. Repeating a batch changes nothing there.
3. The trusted tier releases. Repeating the request returns the same values and charges nothing.
4. One transaction stores the new model version, or the answers to the plan's queries, marks the round
   ``finished``, keeps the counts, and deletes the check-ins and the sealed reports.

Asynchronous rounds (:mod:`.asynchronous`) go the same way, but what is handed over comes from several
rounds, and the transaction of step 4 opens the next one.

A round that cannot be released goes ``aborting`` -> ``aborted`` instead, with its reason and counts.

With several gateways every one has a clock, and whichever takes the lock of a task ends its round. The
lock saves the others the same work and decides nothing: should it be lost with its connection, or an
operator close the round by hand meanwhile, each step still happens once, because it begins from the
state that the step before it left.
"""

from __future__ import annotations

import logging
import threading
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Final

from sqlalchemy import Connection, bindparam, select

from pocketfl.plan import Manifest
from pocketfl_server.analytics.results import Results
from pocketfl_server.asynchronous import AsynchronousRounds
from pocketfl_server.audit import record_release
from pocketfl_server.credentials.issuer import forget_tokens
from pocketfl_server.database import Database, check_ins, reports, round_counts, rounds
from pocketfl_server.errors import Conflict, NotFound
from pocketfl_server.records import RoundResult
from pocketfl_server.registry import DivergedError, NextModel, Registry
from pocketfl_server.releases import check_release
from pocketfl_server.retries import Retries
from pocketfl_server.rounds import RoundFacts, Rounds, count_participants
from pocketfl_server.schedules import is_stopped
from pocketfl_server.tasks import Tasks
from pocketfl_server.trusted import refusals
from pocketfl_server.trusted.client import TrustedTier
from pocketfl_server.trusted.messages import SealedEntry
from pocketfl_server.trusted.refusals import BudgetExhausted, FloorNotReached, TrustedTierError
from pocketfl_server.trusted.releases import Release

logger = logging.getLogger(__name__)

BUDGET_EXHAUSTED: Final = "budget_exhausted"
DIVERGED: Final = "diverged"
"""Reasons that end a task with its round: no later round could do better."""
PAGE_BYTES: Final = 32 * 2**20
"""Sealed reports that are held in memory while they are handed over."""
MAX_PAGE: Final = 4096
RECEIPT_ROUNDS: Final = 2
"""For so many later rounds of a task a repeated upload still gets its receipt."""

_MOVE = (
    rounds.update()
    .where(
        rounds.c.id == bindparam("this_round"),
        rounds.c.state == bindparam("before"),
    )
    .values(state=bindparam("after"), reason=bindparam("why"))
)
_FINISH = (
    rounds.update()
    .where(rounds.c.id == bindparam("this_round"), rounds.c.state == "closing")
    .values(state="finished", new_version=bindparam("version"), ended_at=bindparam("now"))
)
_ADOPTED = (
    rounds.update()
    .where(
        rounds.c.task == bindparam("its_task"),
        rounds.c.number == bindparam("its_number"),
        rounds.c.state == "finished",
    )
    .values(new_version=bindparam("version"))
)
_ABORT = (
    rounds.update()
    .where(rounds.c.id == bindparam("this_round"), rounds.c.state == "aborting")
    .values(state="aborted", ended_at=bindparam("now"))
)
_PENDING = (
    select(reports.c.lease, reports.c.sealed)
    .where(
        reports.c.round_id == bindparam("this_round"),
        reports.c.submitted.is_(False),
        reports.c.sealed.is_not(None),
    )
    .order_by(reports.c.lease)
    .limit(bindparam("page"))
)
_SUBMITTED = (
    reports.update().where(reports.c.lease == bindparam("its_lease")).values(submitted=True)
)
_FORGET_CHECK_INS = check_ins.delete().where(check_ins.c.round_id == bindparam("this_round"))
_FORGET_REPORTS = (
    reports.update().where(reports.c.round_id == bindparam("this_round")).values(sealed=None)
)
_FORGET_RECEIPTS = reports.delete().where(
    reports.c.round_id.in_(
        select(rounds.c.id).where(
            rounds.c.task == bindparam("task"),
            rounds.c.number <= bindparam("number"),
            rounds.c.state.in_(("finished", "aborted")),
        )
    )
)


class Coordinator:
    """Ends rounds; safe to be called twice, from several threads, and again after a crash.

    Parameters
    ----------
    database, tasks, rounds, registry, results
        Where things are kept.
    trusted : TrustedTier
        Sums, adds noise and releases.
    clock : callable
        Returns Unix time in seconds.
    """

    def __init__(
        self,
        database: Database,
        task_list: Tasks,
        round_list: Rounds,
        registry: Registry,
        results: Results,
        *,
        trusted: TrustedTier,
        clock: Callable[[], float],
    ) -> None:
        self._database = database
        self._tasks = task_list
        self._rounds = round_list
        self._registry = registry
        self._results = results
        self._trusted = trusted
        self._clock = clock
        self._asynchronous = AsynchronousRounds(database)
        self._wanted: dict[tuple[str, int], int] = {}
        self._put_count = database.insert_or_ignore(round_counts)
        self._locks: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)
        self._retries = Retries[tuple[str, int]]()

    def close(self, task: str, number: int | None = None) -> RoundResult:
        """Close a round and make a new model version of it.

        Parameters
        ----------
        task : str
            Name of the task.
        number : int, optional
            The round; by default the one that is under way. A round that has ended already is
            returned as it is.

        Returns
        -------
        RoundResult
            ``finished`` or ``aborted``.

        Raises
        ------
        NotFound, Conflict
            If there is no such round, or none under way.
        TrustedTierError
            If the trusted tier cannot be reached or contradicts the record; call again.
        ReleaseRefusedError
            If what it released is not what the round's plan calls for.
        """
        number = self._number(task, number)
        with self._locks[task]:
            facts = self._facts(task, number)
            self._move(facts, "open", "closing")
            state = self._rounds.result(task, number).state
            if state == "closing":
                self._release(facts)
            elif state == "aborting":
                self._finish_aborting(facts)
        return self._rounds.result(task, number)

    def abort(self, task: str, number: int | None = None) -> RoundResult:
        """End a round without a new version and delete its reports everywhere.

        Raises
        ------
        NotFound, Conflict
            If there is no such round, none under way, it has made a version, or its sum has been
            released already: then only closing it is left.
        TrustedTierError
            If the trusted tier cannot be reached; call again.
        """
        number = self._number(task, number)
        with self._locks[task]:
            facts = self._facts(task, number)
            for state in ("open", "closing"):
                self._move(facts, state, "aborting", reason="operator")
            result = self._rounds.result(task, number)
            if result.state == "aborting":
                self._finish_aborting(facts)
            elif result.state == "finished":
                raise Conflict(
                    f"round {number} of {task!r} has made version {result.new_version}",
                    code="round_finished",
                )
        return self._rounds.result(task, number)

    def adopt(self, task: str, number: int) -> int:
        """Make of the root's release of a round the shard's next model version; returns its number.

        The release is the one that this back end's own trusted tier took from the root's. A round that
        is still under way here, because the root did without its sum, is aborted. Repeating the call
        changes nothing.

        Raises
        ------
        NotFound, Conflict
            If there is no such task, or it makes no model.
        TrustedTierError
            If the trusted tier has no such release, or cannot be reached.
        ReleaseRefusedError, DivergedError
            If it is not what the plan calls for, or moves the model out of bounds.
        """
        record = self._tasks.get(task)
        manifest = self._tasks.manifest(record.plan_sha256)
        if record.optimizer is None:
            raise Conflict(f"task {task!r} makes no model", code="wrong_settings")
        with self._locks[task], self._database.reading() as connection:
            for made in self._registry.versions(connection, task):
                if made.round == number:
                    return made.version
            current = self._rounds.under_way(task)
            if current is not None and current.round <= number:
                facts = self._facts(task, current.round)
                for state in ("open", "closing"):
                    self._move(facts, state, "aborting", reason="left_out")
                self._finish_aborting(facts)
            version = self._registry.latest(connection, task)
            following = self._registry.compute_next(
                connection,
                manifest=manifest,
                plan_sha256=record.plan_sha256,
                optimizer=record.optimizer,
                task=task,
                round_number=number,
                model_version=version,
                clip_norm=None,
                release=self._trusted.release(task, number, version),
            )
        now = self._clock()
        with self._database.writing() as connection:
            made_version = self._registry.store_next(connection, following, manifest, now=now)
            record_release(connection, following.release, new_version=made_version, now=now)
            connection.execute(
                _ADOPTED, {"its_task": task, "its_number": number, "version": made_version}
            )
            if self._registry.releases(connection, task) >= manifest.aggregation.max_rounds:
                self._tasks.finish(connection, task, "max_rounds_reached")
        return made_version

    def close_due(self) -> list[RoundResult]:
        """Close every round past its deadline, and end those that a crash left half-ended.

        An asynchronous round is closed as soon as it has enough reports.

        A round that cannot be ended now, because the trusted tier is away, stays as it is and is
        logged; later calls try again, ever less often. One that another gateway is ending is left
        to it.
        """
        ended = []
        now = self._clock()
        ready = self._asynchronous.ready(self._wanted)
        for task, number in dict.fromkeys([*self._rounds.due(now=now), *ready]):
            if not self._retries.is_due((task, number), now=now):
                continue
            try:
                with self._database.exclusively(f"end {task}") as mine:
                    if not mine:
                        continue  # another gateway is at it
                    ended.append(self.close(task, number))
                self._retries.forget((task, number))
            except Exception as error:
                self._retries.failed((task, number), now=now)
                logger.warning(
                    "round %d of task %s cannot be ended yet: %s: %s",
                    number,
                    task,
                    type(error).__name__,
                    error,
                )
        return ended

    def _number(self, task: str, number: int | None) -> int:
        if number is not None:
            return self._rounds.result(task, number).round
        self._tasks.get(task)
        current = self._rounds.under_way(task)
        if current is None:
            raise Conflict(f"task {task!r} has no round under way", code="no_round_under_way")
        return current.round

    def _facts(self, task: str, number: int) -> RoundFacts:
        facts = self._rounds.facts(task, number)
        if facts is None:
            raise NotFound(f"task {task!r} has no round {number}", code="unknown_round")
        return facts

    def _release(self, facts: RoundFacts) -> None:
        manifest = self._tasks.manifest(facts.plan_sha256)
        floor = manifest.aggregation.cohort_floor
        if facts.max_staleness is not None and self._asynchronous.held(facts) < floor:
            # Nothing is handed over: these reports are for the next release.
            self._start_aborting(facts, "floor_not_reached")
            return
        if not self._hand_over(facts):
            self._start_aborting(facts, "round_full")
            return
        try:
            release = self._trusted.release(facts.task, facts.number, facts.model_version)
        except FloorNotReached as refusal:
            counts = {
                name: int(value or 0) for name, value in refusal.details.items() if name != "floor"
            }
            accepted = counts.pop("accepted", None)
            if self._waits_for_more(facts, accepted=accepted, manifest=manifest):
                return
            self._start_aborting(facts, "floor_not_reached", accepted=accepted, rejected=counts)
            return
        except BudgetExhausted:
            self._start_aborting(facts, BUDGET_EXHAUSTED)
            return
        except refusals.Conflict as conflict:
            if conflict.code != "is_a_shard":
                raise
            self._leave_to_root(facts)
            return
        if manifest.kind != "training":
            check_release(
                release,
                manifest=manifest,
                plan_sha256=facts.plan_sha256,
                task=facts.task,
                round_number=facts.number,
                model_version=facts.model_version,
                clip_norm=facts.clip_norm,
            )
            self._keep_result(facts, manifest, release)
            return
        try:
            following = self._compute_next(facts, manifest, release)
        except DivergedError:
            self._start_aborting(
                facts, DIVERGED, accepted=release.reports, rejected=release.rejected
            )
            return
        self._apply(facts, manifest, following)

    def _hand_over(self, facts: RoundFacts) -> bool:
        """Submit what has not been submitted.

        Returns
        -------
        bool
            False if there are more reports than the plan's population could honestly have sent.
        """
        page = max(1, min(MAX_PAGE, PAGE_BYTES // facts.report_bytes))
        while True:
            entries = self._pending(facts, page)
            if not entries:
                return True
            try:
                self._trusted.submit(facts.task, facts.number, facts.model_version, entries)
            except refusals.Conflict as conflict:
                if conflict.code == "round_full":
                    return False
                if conflict.code == "round_released":  # by another gateway, or before a crash
                    return True
                raise
            with self._database.writing() as connection:
                connection.execute(_SUBMITTED, [{"its_lease": entry.lease} for entry in entries])

    def _pending(self, facts: RoundFacts, page: int) -> list[SealedEntry]:
        if facts.max_staleness is None:
            with self._database.reading() as connection:
                rows = connection.execute(_PENDING, {"this_round": facts.id, "page": page}).all()
            return [SealedEntry(lease=row.lease, sealed=bytes(row.sealed)) for row in rows]
        return self._asynchronous.pending(facts, page=page)

    def _waits_for_more(
        self, facts: RoundFacts, *, accepted: int | None, manifest: Manifest
    ) -> bool:
        """Leave an asynchronous round open where reports turned out to be none, and time is left."""
        if facts.max_staleness is None or self._clock() >= facts.closes_at:
            return False
        with self._database.reading() as connection:
            if is_stopped(connection, facts.task):
                return False
        missing = manifest.aggregation.cohort_floor - (accepted or 0)
        self._wanted[facts.task, facts.number] = max(1, missing)
        self._move(facts, "closing", "open")
        return True

    def _compute_next(self, facts: RoundFacts, manifest: Manifest, release: Release) -> NextModel:
        optimizer = self._tasks.get(facts.task).optimizer
        if optimizer is None:
            raise ValueError(f"task {facts.task!r} trains without an optimizer")
        with self._database.reading() as connection:
            return self._registry.compute_next(
                connection,
                manifest=manifest,
                plan_sha256=facts.plan_sha256,
                optimizer=optimizer,
                task=facts.task,
                round_number=facts.number,
                model_version=facts.model_version,
                clip_norm=facts.clip_norm,
                release=release,
            )

    def _apply(self, facts: RoundFacts, manifest: Manifest, following: NextModel) -> None:
        now = self._clock()
        release = following.release
        with self._database.writing() as connection:
            moved = connection.execute(
                _FINISH,
                {"this_round": facts.id, "version": facts.model_version + 1, "now": now},
            )
            if moved.rowcount == 0:
                return  # another gateway applied the same release
            version = self._registry.store_next(connection, following, manifest, now=now)
            record_release(connection, release, new_version=version, now=now)
            self._keep_outcome(connection, facts, release.reports, release.rejected)
            limit = manifest.aggregation.max_rounds
            done = self._registry.releases(connection, facts.task) >= limit
            goes_on = not done and not is_stopped(connection, facts.task)
            self._forget(connection, facts, goes_on=goes_on)
            if done:
                self._tasks.finish(connection, facts.task, "max_rounds_reached")
            elif facts.max_staleness is not None and goes_on:
                self._asynchronous.open_next(connection, facts, model_version=version, now=now)
        self._wanted.pop((facts.task, facts.number), None)
        self._database.forget_deleted()

    def _keep_result(self, facts: RoundFacts, manifest: Manifest, release: Release) -> None:
        now = self._clock()
        with self._database.writing() as connection:
            moved = connection.execute(
                _FINISH, {"this_round": facts.id, "version": None, "now": now}
            )
            if moved.rowcount == 0:
                return  # another gateway kept the same release
            self._results.store(connection, release, now=now)
            record_release(connection, release, new_version=None, now=now)
            self._keep_outcome(connection, facts, release.reports, release.rejected)
            self._forget(connection, facts, goes_on=False)
            limit = manifest.aggregation.max_rounds
            if self._results.releases(connection, facts.task) >= limit:
                self._tasks.finish(connection, facts.task, "max_rounds_reached")
        self._database.forget_deleted()

    def _leave_to_root(self, facts: RoundFacts) -> None:
        """End a shard's round: its trusted tier has the reports, and the root will have their sum."""
        now = self._clock()
        with self._database.writing() as connection:
            moved = connection.execute(
                _FINISH, {"this_round": facts.id, "version": None, "now": now}
            )
            if moved.rowcount == 0:
                return  # another gateway was quicker
            self._keep_outcome(connection, facts, None, {})
            self._forget(connection, facts, goes_on=False)
        self._database.forget_deleted()

    def _start_aborting(
        self,
        facts: RoundFacts,
        reason: str,
        *,
        accepted: int | None = None,
        rejected: Mapping[str, int] | None = None,
    ) -> None:
        with self._database.writing() as connection:
            connection.execute(
                _MOVE,
                {"this_round": facts.id, "before": "closing", "after": "aborting", "why": reason},
            )
            self._keep_outcome(connection, facts, accepted, rejected or {})
        self._finish_aborting(facts)

    def _finish_aborting(self, facts: RoundFacts) -> None:
        reason = self._rounds.result(facts.task, facts.number).reason
        try:
            self._trusted.abandon(facts.task, facts.number)
        except TrustedTierError as error:
            if error.code != "round_released":
                raise
            if reason == DIVERGED:  # its reports went with the release
                self._record_abort(facts, reason)
                return
            self._move(facts, "aborting", "closing")
            raise Conflict(
                f"the sum of round {facts.number} of {facts.task!r} has been released and charged "
                "already; close the round instead",
                code="round_released",
            ) from None
        self._record_abort(facts, reason)

    def _record_abort(self, facts: RoundFacts, reason: str | None) -> None:
        with self._database.writing() as connection:
            now = self._clock()
            moved = connection.execute(_ABORT, {"this_round": facts.id, "now": now})
            if moved.rowcount == 0:
                return
            goes_on = (
                facts.max_staleness is not None
                and reason == "floor_not_reached"
                and not is_stopped(connection, facts.task)
            )
            if not goes_on:
                self._keep_counts(connection, facts, self._participants(connection, facts))
            self._forget(connection, facts, goes_on=goes_on)
            if goes_on:
                version = facts.model_version
                self._asynchronous.open_next(connection, facts, model_version=version, now=now)
            if reason in (BUDGET_EXHAUSTED, DIVERGED):
                self._tasks.finish(connection, facts.task, reason)
        self._database.forget_deleted()

    def _move(
        self, facts: RoundFacts, before: str, after: str, *, reason: str | None = None
    ) -> None:
        with self._database.writing() as connection:
            connection.execute(
                _MOVE, {"this_round": facts.id, "before": before, "after": after, "why": reason}
            )

    def _keep_outcome(
        self,
        connection: Connection,
        facts: RoundFacts,
        accepted: int | None,
        rejected: Mapping[str, int],
    ) -> None:
        counts: dict[tuple[str, str], int] = {}
        # Devices of an asynchronous round are counted when the last of them is cut off.
        if facts.max_staleness is None:
            counts = self._participants(connection, facts)
        if accepted is not None:
            counts["accepted", ""] = accepted
        counts |= {("rejected", reason): count for reason, count in rejected.items()}
        self._keep_counts(connection, facts, counts)

    @staticmethod
    def _participants(connection: Connection, facts: RoundFacts) -> dict[tuple[str, str], int]:
        leases, uploaded = count_participants(connection, facts)
        return {("leases", ""): leases, ("uploaded", ""): uploaded}

    def _keep_counts(
        self, connection: Connection, facts: RoundFacts, counts: Mapping[tuple[str, str], int]
    ) -> None:
        if not counts:
            return
        connection.execute(
            self._put_count,
            [
                {
                    "task": facts.task,
                    "round": facts.number,
                    "stage": stage,
                    "reason": reason,
                    "count": count,
                }
                for (stage, reason), count in counts.items()
            ],
        )

    def _forget(self, connection: Connection, facts: RoundFacts, *, goes_on: bool) -> None:
        """Delete who checked in, and the sealed reports: nothing needs them after the round.

        Of asynchronous rounds, those that are cut off, or all if the task does not go on.
        """
        if facts.max_staleness is None:
            self._forget_round(connection, facts.id)
            before = facts.number - RECEIPT_ROUNDS
        else:
            for retired in self._asynchronous.retire(connection, facts, everything=not goes_on):
                earlier = self._rounds.facts_of_id(retired.id) or facts
                self._keep_counts(connection, earlier, self._participants(connection, earlier))
                self._forget_round(connection, retired.id)
            before = facts.number - facts.max_staleness - RECEIPT_ROUNDS
        connection.execute(_FORGET_RECEIPTS, {"task": facts.task, "number": before})
        separation = self._tasks.manifest(facts.plan_sha256).min_separation
        forget_tokens(connection, facts.task, ended=facts.number, separation=separation)

    @staticmethod
    def _forget_round(connection: Connection, round_id: bytes) -> None:
        connection.execute(_FORGET_CHECK_INS, {"this_round": round_id})
        connection.execute(_FORGET_REPORTS, {"this_round": round_id})
