"""What devices do in an open round: check in for a lease, upload a sealed report under it.

These are the requests that come by the thousand. Each is prepared without the database and then is one
small operation in a transaction, which several requests may share (:mod:`.group_commit`).
"""

from __future__ import annotations

import hmac
from collections.abc import Callable
from hashlib import sha256
from typing import Final

from sqlalchemy import Connection, bindparam, exists, or_, select

from pocketfl.protocol import Assignment, CheckIn, ReportReceipt, RetryWindow
from pocketfl_server.asynchronous import AsynchronousRounds
from pocketfl_server.attestations import Attestations
from pocketfl_server.credentials.redemption import Redeemed, Redemption
from pocketfl_server.database import (
    Database,
    check_ins,
    devices,
    pauses,
    reports,
    round_counts,
    rounds,
)
from pocketfl_server.enrolment import Enrolments, token_digest, unknown_token
from pocketfl_server.errors import Conflict, Gone, Malformed, NotFound, TooLarge
from pocketfl_server.leases import is_genuine, new_lease, round_of
from pocketfl_server.pacing import Arrivals
from pocketfl_server.pauses import NO_TASK, window_of
from pocketfl_server.rounds import RoundFacts, Rounds
from pocketfl_server.versions import Versions

RETRY_SECONDS: Final = (30.0, 300.0)
"""When a device that was turned away may come back; it picks a random time in between."""
_MAX_RETRY_SECONDS: Final = 30 * 86_400.0

_PAUSED = exists().where(or_(pauses.c.task == rounds.c.task, pauses.c.task == NO_TASK))

# One statement finds both the round's state and the device, or the receipt; each may be missing.
# Sharing a lock on the round keeps it from closing under the operation (PostgreSQL; SQLite has one
# writer anyway).
_STATE_AND_DEVICE = (
    select(rounds.c.state, devices.c.token_sha256, _PAUSED)
    .select_from(rounds.outerjoin(devices, devices.c.token_sha256 == bindparam("device")))
    .where(rounds.c.id == bindparam("id"))
    .with_for_update(read=True, of=rounds)
)
_STATE_AND_RECEIPT = (
    select(rounds.c.state, reports.c.sha256)
    .select_from(rounds.outerjoin(reports, reports.c.lease == bindparam("lease")))
    .where(rounds.c.id == bindparam("id"))
    .with_for_update(read=True, of=rounds)
)
_RECEIPT = select(reports.c.sha256).where(reports.c.lease == bindparam("lease"))


class Intake:
    """Gives out leases and takes in sealed reports, which it never opens.

    Parameters
    ----------
    database, enrolments, rounds
        Where things are kept.
    redemption : Redemption
        Recognises anonymous tokens, and takes each once.
    anonymous_only : bool
        Whether nothing else is taken at check-in.
    arrivals : Arrivals
        Spreads those that are turned away.
    versions : Versions
        Counts what devices run.
    attestations : Attestations
        What vouches for the key that reports are sealed to.
    clock : callable
        Returns Unix time in seconds.
    """

    def __init__(
        self,
        database: Database,
        enrolments: Enrolments,
        round_list: Rounds,
        *,
        attestations: Attestations,
        redemption: Redemption,
        anonymous_only: bool,
        arrivals: Arrivals,
        versions: Versions,
        clock: Callable[[], float],
    ) -> None:
        self._enrolments = enrolments
        self._attestations = attestations
        self._redemption = redemption
        self._anonymous_only = anonymous_only
        self._arrivals = arrivals
        self._versions = versions
        self._rounds = round_list
        self._clock = clock
        self._asynchronous = AsynchronousRounds(database)
        self._state_and_device = database.prepare(_STATE_AND_DEVICE)
        self._check_in = database.prepare(database.insert_or_ignore(check_ins))
        self._state_and_receipt = database.prepare(_STATE_AND_RECEIPT)
        self._store = database.prepare(database.insert_or_ignore(reports))
        insert = database.insert(round_counts)
        self._count = insert.on_conflict_do_update(
            index_elements=list(round_counts.primary_key.columns),
            set_={"count": round_counts.c.count + insert.excluded.count},
        )

    def check_in(
        self, token: str, task: str, number: int, request: CheckIn
    ) -> Callable[[Connection], Assignment | RetryWindow]:
        """Prepare a check-in: the device token appears here and never after.

        Parameters
        ----------
        token : str
            Device token.
        task, number
            The round.
        request : CheckIn
            What the device can run.

        Returns
        -------
        callable
            The operation; it raises :class:`NotAuthenticated` or :class:`NotFound` before it writes.
        """
        facts = self._rounds.facts(task, number)
        return self._check_in_as(token_digest(token), facts, task, number, request, token=token)

    def check_in_anonymously(
        self, token: bytes, task: str, number: int, request: CheckIn
    ) -> Callable[[Connection], Assignment | RetryWindow]:
        """Prepare a check-in with a single-use token: nobody's name appears at all.

        Raises
        ------
        NotAuthenticated
            With code ``wrong_token`` if it is not a token for an epoch with this round.
        """
        facts = self._rounds.facts(task, number)
        redeemed = self._redemption.check(token, task, number)
        return self._check_in_as(
            redeemed.stands_for, facts, task, number, request, token=None, redeemed=redeemed
        )

    def _check_in_as(
        self,
        device: bytes,
        facts: RoundFacts | None,
        task: str,
        number: int,
        request: CheckIn,
        *,
        token: str | None,
        redeemed: Redeemed | None = None,
    ) -> Callable[[Connection], Assignment | RetryWindow]:
        """Prepare a check-in under a device's hash, or a token's, which no device has."""
        aggregator = None if facts is None else self._attestations.key(facts)

        def operation(connection: Connection) -> Assignment | RetryWindow:
            if facts is None:
                if token is not None:
                    self._enrolments.authenticate(connection, token)
                raise NotFound(
                    f"no round {number} of a task {task[:128]!r} here", code="unknown_round"
                )
            now = self._clock()
            state, known, is_paused = self._state_and_device.one(
                connection, {"id": facts.id, "device": device}
            )
            if known is None and token is not None:
                raise unknown_token()
            if token is not None and self._anonymous_only:
                raise Malformed(
                    "this back end takes anonymous tokens at check-in; fetch them ahead of time",
                    code="anonymous_token_needed",
                )
            if state != "open" or now >= facts.closes_at:
                return self._turn_away(connection, facts, "round_closed")
            if is_paused:
                window = window_of(connection, facts.task)
                return self._turn_away(connection, facts, "paused", window=window)
            if facts.runtimes and not facts.runtimes.intersection(request.runtimes):
                return self._turn_away(connection, facts, "runtime_unsupported")
            if facts.plan_schema not in request.plan_schemas:
                return self._turn_away(connection, facts, "plan_schema_unsupported")
            if facts.max_staleness is not None:
                if self._asynchronous.has_checked_in(connection, facts, device):
                    return self._turn_away(connection, facts, "too_soon")
                if not self._asynchronous.admits(connection, facts, now=now):
                    return self._turn_away(connection, facts, "no_slot")
            if aggregator is None:
                return self._turn_away(connection, facts, "attestation_unavailable")
            if redeemed is not None and not self._redemption.spend(connection, redeemed):
                return self._turn_away(
                    connection, facts, "token_spent", after=facts.closes_at - now
                )
            inserted = self._check_in.count(connection, {"round_id": facts.id, "device": device})
            if inserted != 1:
                return self._turn_away(
                    connection, facts, "already_checked_in", after=facts.closes_at - now
                )
            self._versions.saw(facts.task, facts.number, request)
            return Assignment(
                lease=new_lease(facts.id, facts.lease_key),
                expires_at=facts.closes_at,
                task=facts.task,
                round=facts.number,
                model_version=facts.model_version,
                plan_sha256=facts.plan_sha256,
                parameters_sha256=facts.parameters_sha256,
                aggregator=aggregator,
            )

        return operation

    def report_bytes(self, lease: str) -> int:
        """Return the length that every report under this lease's plan has.

        Raises
        ------
        NotFound
            With code ``unknown_lease``.
        """
        return self._facts_of(lease).report_bytes

    def upload(self, lease: str, body: bytes) -> Callable[[Connection], ReportReceipt]:
        """Prepare the upload of a sealed report.

        Parameters
        ----------
        lease : str
            From the assignment.
        body : bytes
            The sealed report.

        Returns
        -------
        callable
            The operation. The same bytes again give the same receipt, also after the round; it
            raises :class:`Conflict` for other bytes and :class:`Gone` when it is too late.

        Raises
        ------
        NotFound
            If the lease was never given out.
        TooLarge, Malformed
            If the report has another length than the plan's reports have.
        """
        facts = self._facts_of(lease)
        expected = facts.report_bytes
        if len(body) > expected:
            raise TooLarge(f"{len(body)} bytes; a report of this plan has {expected}")
        if len(body) < expected:
            raise Malformed(
                f"{len(body)} bytes; a report of this plan has {expected}", code="wrong_length"
            )
        digest = sha256(body).digest()

        def operation(connection: Connection) -> ReportReceipt:
            # Looking for the receipt first lets a device repeat an upload whose answer was lost.
            state, stored = self._state_and_receipt.one(
                connection, {"id": facts.id, "lease": lease}
            )
            if stored is None:
                if self._clock() >= facts.closes_at:
                    raise Gone("the lease has expired; its round's deadline has passed")
                if not self._takes(connection, facts, state):
                    raise Gone("the lease's round is closed", code="round_closed")
                inserted = self._store.count(
                    connection,
                    {
                        "lease": lease,
                        "round_id": facts.id,
                        "sha256": digest,
                        "sealed": body,
                        "submitted": False,
                    },
                )
                if inserted == 1:
                    return ReportReceipt(lease=lease, sha256=digest.hex())
                stored = connection.execute(_RECEIPT, {"lease": lease}).scalar_one()
            if not hmac.compare_digest(bytes(stored), digest):
                raise Conflict(
                    "another report was uploaded under this lease; the first stays",
                    code="other_report_for_lease",
                )
            return ReportReceipt(lease=lease, sha256=digest.hex())

        return operation

    def _takes(self, connection: Connection, facts: RoundFacts, state: str) -> bool:
        if facts.max_staleness is None:
            return state == "open"
        return self._asynchronous.takes(connection, facts)

    def _facts_of(self, lease: str) -> RoundFacts:
        round_id = round_of(lease)
        facts = None if round_id is None else self._rounds.facts_of_id(round_id)
        if facts is None or not is_genuine(lease, facts.lease_key):
            raise NotFound("no such lease was given out here", code="unknown_lease")
        return facts

    def _turn_away(
        self,
        connection: Connection,
        facts: RoundFacts,
        reason: str,
        *,
        after: float = 0.0,
        window: tuple[float, float] = RETRY_SECONDS,
    ) -> RetryWindow:
        connection.execute(
            self._count,
            {
                "task": facts.task,
                "round": facts.number,
                "stage": "turned_away",
                "reason": reason,
                "count": 1,
            },
        )
        start, width = window[0], window[1] - window[0]
        wanted = min(max(after, 0.0) + start, _MAX_RETRY_SECONDS - width)
        spread = self._arrivals.delay(now=self._clock(), after=wanted)
        earliest = min(spread, _MAX_RETRY_SECONDS - width)
        return RetryWindow(reason=reason, min_seconds=earliest, max_seconds=earliest + width)
