"""The trusted tier's core: open, check, sum, add noise, charge, release. No network here.

A report that does not check out is left out and counted by reason; none is ever rescaled. The budget
is looked at before the first report is opened, the floor before noise is drawn, and a noised sum leaves
only after it and its charge are on disk. Nothing of a report's contents is logged or put in a message.
"""

# ruff: noqa: A002 - "round" is the word of the field

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from functools import partial
from hashlib import sha256
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from pocketfl.attestation.binding import head_nonce, key_nonce, token_keys_nonce
from pocketfl.errors import PlanError
from pocketfl.plan import Plan
from pocketfl.plan.signing import parse_public_keys
from pocketfl.protocol import AggregatorKey, Attestation, LedgerHead, check_identifier
from pocketfl.reports import report_size
from pocketfl.sealing import generate_key_pair, key_id
from pocketfl_server.trusted.accounting import (
    check_claims,
    planned_privacy,
    progress,
    spent_privacy,
)
from pocketfl_server.trusted.allowance import Allowance
from pocketfl_server.trusted.attesters import AttestationError, Attester
from pocketfl_server.trusted.collecting import Collection
from pocketfl_server.trusted.events import spent_event
from pocketfl_server.trusted.ledger import (
    BudgetConflictError,
    Charge,
    LeaseTakenError,
    Ledger,
    RoundFullError,
    TaskRecord,
)
from pocketfl_server.trusted.messages import (
    KeyDescription,
    PublishedTokenKeys,
    SealedEntry,
    SealedPartialSum,
    SealedRelease,
    TaskDescription,
    TokenKeyDigest,
    batches,
)
from pocketfl_server.trusted.observing import Nobody, Observer
from pocketfl_server.trusted.refusals import (
    BudgetExhausted,
    Conflict,
    FloorNotReached,
    MalformedRequest,
    PlanRefused,
    TrustedTierUnavailable,
    UnknownTask,
)
from pocketfl_server.trusted.releases import IntegerVector, Release, decode_release, encode_release
from pocketfl_server.trusted.releasing import draw_noise, make_release
from pocketfl_server.trusted.shards import Sharding, Shards
from pocketfl_server.trusted.task_state import TaskState
from pocketfl_server.trusted.token_keys import TokenKeysConflictError
from pocketfl_server.trusted.tree import advance
from pocketfl_server.trusted.witness import Witness, WitnessError, check_against
from pocketfl_server.trusted.workers import Workers

_MAX_NUMBER: Final = 2**31 - 1


class Aggregator:
    """The trusted tier in process; implements :class:`~pocketfl_server.trusted.client.TrustedTier`.

    Parameters
    ----------
    ledger_path : str or Path
        The durable ledger; one aggregator at a time.
    plan_keys : iterable of str or bytes
        Ed25519 public keys of the modellers whose plans are served, raw or in hex.
    attester : Attester, optional
        Gets tokens that vouch for this process; without one, devices have to pin keys.
    witness : Witness, optional
        Hears of every release before it is handed over.
    workers : int, optional
        Processes that sum reports; 1 for this process alone.
    sharding : Sharding, optional
        What this tier is among several; by default it is the only one.
    observer : Observer, optional
        Is told of releases.

    Raises
    ------
    LedgerError
        If the ledger cannot be used.
    WitnessError
        If the witness has seen more than the ledger knows: it was rolled back.
    PlanError
        If no usable key is given.
    """

    def __init__(
        self,
        ledger_path: str | Path,
        *,
        plan_keys: Iterable[str | bytes],
        attester: Attester | None = None,
        witness: Witness | None = None,
        workers: int = 1,
        sharding: Sharding | None = None,
        observer: Observer | None = None,
    ) -> None:
        self._observer = observer or Nobody()
        self._plan_keys = parse_public_keys(plan_keys)
        self._attester = attester
        self._witness = witness
        self._workers = Workers(workers)
        self._ledger = Ledger(ledger_path)
        self._collection = Collection(self._ledger, self._workers)
        self._allowance = Allowance(
            self._ledger, manifest_of=lambda task: self._task(task).manifest
        )
        if witness is not None:
            try:
                check_against(witness, self._ledger.head())
                for task, head in self._ledger.token_key_heads().items():
                    check_against(witness, head, log=_token_key_log(task))
            except BaseException:
                self._ledger.close()
                raise
        self._shards = None if sharding is None else Shards(sharding, self._ledger)
        self._tasks: dict[str, TaskState] = {}
        self._lock = threading.RLock()
        self._witness_lock = threading.Lock()

    def close(self) -> None:
        """End the workers and close the ledger."""
        self._workers.close()
        self._ledger.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def register(self, task: str, plan_data: bytes) -> KeyDescription:
        """Verify a plan and bind a key to it; see :class:`~.client.TrustedTier`.

        A plan is known by its signed manifest, not by its archive: packing the same manifest again
        must not buy a second budget.
        """
        _check_name(task)
        plan = self._verify(plan_data)
        check_claims(plan.manifest)
        manifest_digest = sha256(plan.manifest.to_json()).hexdigest()
        with self._lock:
            recorded = self._ledger.task(task)
            if recorded is not None:
                if recorded.plan != plan_data:
                    raise Conflict(
                        f"task {task!r} has another plan; give the new plan a task of its own",
                        code="task_has_other_plan",
                    )
                return self._task(task).key
            owner = self._ledger.task_of_manifest(manifest_digest)
            if owner is not None:
                raise Conflict(
                    f"this plan belongs to task {owner!r}: one plan has one budget; sign a plan with "
                    "another name or version for another task",
                    code="plan_has_other_task",
                )
            private, public = generate_key_pair()
            try:
                self._ledger.add_task(
                    TaskRecord(task=task, plan=plan_data, private_key=private, public_key=public),
                    manifest_sha256=manifest_digest,
                    budget=plan.manifest.budget,
                )
            except BudgetConflictError as error:
                raise PlanRefused(
                    f"{error}; one budget has one bound: sign the plan with that, or with another "
                    "budget's name",
                    code="budget_conflict",
                ) from None
            return self._task(task).key

    def describe(self, task: str) -> TaskDescription:
        """Say where a task stands; see :class:`~.client.TrustedTier`."""
        state = self._task(task)
        count, last = self._ledger.releases(task)
        return TaskDescription(
            task=task,
            key=state.key,
            last_released_round=last,
            planned=planned_privacy(state.manifest),
            spent=spent_privacy(
                state.manifest, progress(state.manifest, releases=count, last_round=last)
            ),
            budget=self._allowance.statement(state, releasing=None),
            affords_next=self._allowance.affords_next(state),
        )

    def tasks(self) -> tuple[str, ...]:
        """Return the names of all tasks."""
        return self._ledger.tasks()

    def open_rounds(self) -> list[tuple[str, int, int]]:
        """Return task, number and count of sealed reports of each round that is not over."""
        return self._ledger.open_rounds()

    @property
    def worker_restarts(self) -> int:
        """How often all workers had to be replaced because one had died."""
        return self._workers.restarts

    def warm_up(self) -> None:
        """Do ahead of time what the first release after a start would have to wait for.

        Prices every task's next release, which a child process does, and builds the noise samplers.
        What fails here, such as because the ledger is closed meanwhile, is left to the release.
        """
        with suppress(Exception):
            for task in self._ledger.tasks():
                manifest = self._task(task).manifest
                self.describe(task)
                if manifest.dp is not None:
                    draw_noise(manifest.dp, manifest.aggregation, 0)

    def attest(self, task: str) -> Attestation | None:
        """Vouch for a task's key with a fresh token; see :class:`~.client.TrustedTier`."""
        return self._attest(self._task(task))

    def publish_token_keys(self, task: str, keys: Sequence[TokenKeyDigest]) -> PublishedTokenKeys:
        """Enter token keys into the task's directory; see :class:`~.client.TrustedTier`."""
        state = self._task(task)
        with state.lock:
            try:
                start, end = self._ledger.add_token_keys(task, keys)
            except TokenKeysConflictError as error:
                raise Conflict(f"task {task!r}: {error}", code="token_keys_conflict") from None
            if self._witness is not None:
                try:
                    with self._witness_lock:
                        # All that the directory has, also what an earlier call left behind.
                        head = self._ledger.token_key_heads()[task]
                        self._witness.append(head, log=_token_key_log(task))
                except WitnessError as error:
                    raise TrustedTierUnavailable(
                        f"the token keys are kept back: {error}", code="witness_failed"
                    ) from None
        return PublishedTokenKeys(start=start, attestation=self._attest(state, token_keys=end))

    def _attest(
        self, state: TaskState, *, token_keys: LedgerHead | None = None
    ) -> Attestation | None:
        if self._attester is None:
            return None
        raw = bytes.fromhex(state.key.public_key)
        head = self._ledger.head()
        nonces = [key_nonce(raw, state.key.policy_hash), head_nonce(raw, head)]
        if token_keys is not None:
            nonces.append(token_keys_nonce(raw, token_keys))
        try:
            return Attestation(token=self._attester.token(nonces), head=head)
        except AttestationError as error:
            raise TrustedTierUnavailable(
                f"no attestation token is to be had: {error}", code="attestation_failed"
            ) from None
        except ValueError as error:
            raise TrustedTierUnavailable(
                f"the attestation service gave no usable token: {error}", code="attestation_failed"
            ) from None

    def submit(
        self, task: str, round: int, model_version: int, entries: Iterable[SealedEntry]
    ) -> None:
        """Store sealed reports durably; see :class:`~.client.TrustedTier`."""
        state = self._task(task)
        _check_numbers(round, model_version)
        size = report_size(state.manifest)
        # The signed plan says how many devices there are; with room for leases that were given again.
        capacity = 2 * state.manifest.aggregation.population
        for batch in batches(entries):
            rows = []
            for entry in batch:
                if (entry.origin is None) != (state.manifest.aggregation.asynchronous is None):
                    raise MalformedRequest(
                        f"task {task!r}: reports come with the round that they are from where rounds "
                        "are asynchronous, and only there"
                    )
                # What has another length than every report of the plan is not worth its disk space.
                kept = entry.sealed if len(entry.sealed) == size else None
                rows.append((entry.lease, sha256(entry.sealed).digest(), kept, entry.origin))
            with state.lock:
                self._check_open(task, round, model_version)
                try:
                    self._ledger.add_reports(
                        task,
                        round,
                        model_version=model_version,
                        reports=rows,
                        capacity=capacity,
                    )
                except LeaseTakenError as error:
                    raise Conflict(
                        f"task {task!r}, round {round}: {error}; the first is kept",
                        code="other_report_for_lease",
                    ) from None
                except RoundFullError as error:
                    raise Conflict(
                        f"task {task!r}, round {round}: {error}, which is twice the plan's population",
                        code="round_full",
                    ) from None

    def release(self, task: str, round: int, model_version: int) -> Release:
        """Sum, add noise, charge and hand over; see :class:`~.client.TrustedTier`."""
        try:
            return self._release(task, round, model_version)
        except (BudgetExhausted, FloorNotReached, TrustedTierUnavailable) as refusal:
            self._observer.refused(task, refusal.code)
            raise

    def _release(self, task: str, round: int, model_version: int) -> Release:
        begun = time.perf_counter()
        state = self._task(task)
        if self._shards is not None and self._shards.sharding.role == "shard":
            adopted = self._shards.adopted(task, round)
            if adopted is not None:
                return _of_version(decode_release(adopted), model_version)
            raise Conflict(
                f"task {task!r}: this trusted tier is a shard, and only the root releases",
                code="is_a_shard",
            )
        _check_numbers(round, model_version)
        with state.lock, self._allowance.lock(state):
            stored = self._ledger.release(task, round)
            if stored is not None:
                earlier = _of_version(decode_release(stored), model_version)
                self._tell_witness()
                return earlier
            self._check_open(task, round, model_version)
            releases, _ = self._ledger.releases(task)
            number = progress(state.manifest, releases=releases + 1, last_round=round)
            spent = self._allowance.require_own(state, number)
            budget = self._allowance.require_shared(state, round)
            aggregation = state.manifest.aggregation.in_round(self._clip_norm(state))
            result = self._collection.sum(state, round, model_version, aggregation)
            if self._shards is not None:
                self._shards.add_to(result, state, round, model_version)
            floor = aggregation.cohort_floor
            if result.accepted < floor:
                raise FloorNotReached(
                    f"task {task!r}, round {round}: {result.accepted} valid reports, {floor} needed; "
                    "nothing was released or charged",
                    details={"accepted": result.accepted, "floor": floor, **result.reasons()},
                )
            noise, nodes = self._draw_noise(state, round)
            release = make_release(
                state,
                round,
                model_version,
                result,
                aggregation=aggregation,
                spent=spent,
                budget=budget,
                privacy_event=spent_event(state.manifest, number),
                noise=noise,
            )
            dp = state.manifest.dp
            self._ledger.commit_release(
                task,
                round,
                release=encode_release(release),
                charge=Charge(
                    sampling_probability=state.manifest.aggregation.sampling_probability,
                    noise_multiplier=0.0 if dp is None else dp.noise_multiplier,
                ),
                tree_nodes=nodes,
                max_staleness=None
                if aggregation.asynchronous is None
                else aggregation.asynchronous.max_staleness,
            )
            if self._shards is not None:
                self._shards.forget(task, round)
            self._observer.released(
                task,
                accepted=release.reports,
                rejected=release.rejected,
                seconds=time.perf_counter() - begun,
            )
            self._tell_witness()
            return release

    def hand_over(
        self, task: str, round: int, model_version: int, root: AggregatorKey
    ) -> SealedPartialSum:
        """Seal a round's exact sum to the root's trusted tier and end the round here.

        Repeating the call, also after a crash, returns the same bytes.

        Parameters
        ----------
        task : str
            Name of the task.
        round, model_version : int
            Of the round; the same in every shard.
        root : AggregatorKey
            The root's key for the task, with what vouches for it.

        Raises
        ------
        PeerRefused
            If nothing vouches for the root's key; the round goes on.
        Conflict
            If this tier is no shard, or the round is over or was handed over to somebody else.
        """
        state = self._task(task)
        _check_numbers(round, model_version)
        if self._shards is None:
            raise Conflict("this trusted tier is no shard", code="not_a_shard")
        self._shards.require_shard(state.manifest)
        with state.lock:
            earlier = self._shards.handed_over(state, round, model_version, root)
            if earlier is not None:
                return earlier
            self._check_open(task, round, model_version)
            part = self._collection.sum(state, round, model_version, state.manifest.aggregation)
            own = self._own_key(state)
            partial = self._shards.hand_over(state, round, model_version, part, root=root, own=own)
            self._observer.handed_over(task)
            return partial

    def forward(
        self, task: str, round: int, model_version: int, shard: AggregatorKey
    ) -> SealedRelease:
        """Seal a release of this root to a shard, whose devices then train from what it makes.

        Parameters
        ----------
        task : str
            Name of the task.
        round, model_version : int
            Of a round that was released.
        shard : AggregatorKey
            The shard's key for the task, with what vouches for it.

        Raises
        ------
        PeerRefused
            If nothing vouches for the shard's key.
        Conflict
            If this tier is not the root, or the round was not released.
        """
        state = self._task(task)
        _check_numbers(round, model_version)
        if self._shards is None or self._shards.sharding.role != "root":
            raise Conflict("only the root has releases for shards", code="not_the_root")
        stored = self._ledger.release(task, round)
        if stored is None:
            raise Conflict(f"task {task!r}: round {round} was not released", code="not_released")
        _of_version(decode_release(stored), model_version)
        own = self._own_key(state)
        return self._shards.forward(state, round, model_version, stored, shard=shard, own=own)

    def adopt(self, sealed: SealedRelease) -> None:
        """Keep a release of the root, for :meth:`release` to return; repeating it changes nothing.

        The round's reports here, if they were not handed over, are deleted: the root did without.

        Raises
        ------
        PeerRefused
            If nothing vouches for the root's key.
        MalformedRequest
            With code ``release_refused`` if it does not open as what it says it is.
        Conflict
            If this tier is no shard.
        """
        state = self._task(sealed.task)
        if self._shards is None:
            raise Conflict("this trusted tier is no shard", code="not_a_shard")
        with state.lock:
            self._shards.adopt(state, sealed)
            self._ledger.abandon(sealed.task, sealed.round)

    def _own_key(self, state: TaskState) -> AggregatorKey:
        return AggregatorKey(
            key_id=state.key.key_id,
            public_key=state.key.public_key,
            attestation=self.attest(state.task),
        )

    def accept_partial_sum(self, partial: SealedPartialSum) -> None:
        """Keep a shard's partial sum for the release of its round; repeating it changes nothing.

        Raises
        ------
        PeerRefused
            If nothing vouches for the shard's key.
        MalformedRequest
            With code ``partial_sum_refused`` if it does not open as what it says it is, or is no sum of
            reports.
        Conflict
            If this tier is not the root, the round is over, or the shard has sent another one.
        """
        state = self._task(partial.task)
        if self._shards is None:
            raise Conflict("this trusted tier takes no partial sums", code="not_the_root")
        with state.lock:
            self._check_open(partial.task, partial.round, partial.model_version)
            self._shards.accept(state, partial)

    def abandon(self, task: str, round: int) -> None:
        """Delete a round's reports for good; see :class:`~.client.TrustedTier`."""
        state = self._task(task)
        _check_numbers(round, 0)
        with state.lock:
            if self._ledger.release(task, round) is not None:
                raise Conflict(
                    f"task {task!r}: round {round} has been released", code="round_released"
                )
            self._ledger.abandon(task, round)
            if self._shards is not None:
                self._shards.forget(task, round)

    def _clip_norm(self, state: TaskState) -> float | None:
        """Return the clip norm of the round to be released, where the plan lets it adapt.

        It follows from the last release alone, so this tier knows it without being told.
        """
        aggregation = state.manifest.aggregation
        if aggregation.adaptive is None:
            return None
        _, last = self._ledger.releases(state.task)
        stored = self._ledger.release(state.task, last)
        return aggregation.clip_norm if stored is None else decode_release(stored).next_clip_norm

    def _draw_noise(
        self, state: TaskState, round: int
    ) -> tuple[IntegerVector | None, dict[int, IntegerVector]]:
        """Return a release's noise, and the nodes of a tree that go on record with it."""
        manifest = state.manifest
        if manifest.dp is None:
            return None, {}
        draw = partial(draw_noise, manifest.dp, manifest.aggregation, manifest.report_length)
        if manifest.dp.tree is None:
            return draw(), {}
        return advance(self._ledger.tree_nodes(state.task), number=round, draw=draw)

    def _tell_witness(self) -> None:
        """Have the witness know of a release before anybody sees it; a retry comes here again."""
        if self._witness is None:
            return
        try:
            with self._witness_lock:
                self._witness.append(self._ledger.head())
        except WitnessError as error:
            raise TrustedTierUnavailable(
                f"the release is kept back: {error}", code="witness_failed"
            ) from None

    def _verify(self, plan_data: bytes) -> Plan:
        try:
            return Plan.load(plan_data, trusted_keys=self._plan_keys)
        except PlanError as error:
            raise PlanRefused(f"the plan is refused: {error}") from None

    def _task(self, name: str) -> TaskState:
        _check_name(name)
        with self._lock:
            known = self._tasks.get(name)
            if known is not None:
                return known
            record = self._ledger.task(name)
            if record is None:
                raise UnknownTask(f"no task {name!r} here; register its plan first")
            plan = self._verify(record.plan)
            known = TaskState(
                task=name,
                manifest=plan.manifest,
                private_key=record.private_key,
                key=KeyDescription(
                    key_id=key_id(record.public_key),
                    public_key=record.public_key.hex(),
                    plan_sha256=plan.sha256,
                    policy_hash=plan.manifest.policy_hash,
                ),
            )
            self._tasks[name] = known
            return known

    def _check_open(self, task: str, round: int, model_version: int) -> None:
        record = self._ledger.round(task, round)
        if record is not None and record.state != "open":
            raise Conflict(
                f"task {task!r}: round {round} has been {record.state}",
                code=f"round_{record.state}",
            )
        _, last = self._ledger.releases(task)
        if round <= last:
            raise Conflict(
                f"task {task!r}: round {round} is over, round {last} has been released",
                code="round_over",
            )
        if record is not None and record.model_version != model_version:
            raise _other_version(task, round, record.model_version, model_version)


def _token_key_log(task: str) -> str:
    """Return the name of the witness's log for a task's directory."""
    return f"token keys of {task}"


def _check_name(task: str) -> None:
    try:
        check_identifier(task, what="task")
    except ValueError as error:
        raise MalformedRequest(str(error)) from None


def _check_numbers(round: int, model_version: int) -> None:
    if not (1 <= round <= _MAX_NUMBER and 0 <= model_version <= _MAX_NUMBER):
        raise MalformedRequest(
            f"round counts from 1 and model_version from 0, up to {_MAX_NUMBER}; "
            f"got {round} and {model_version}"
        )


def _of_version(release: Release, model_version: int) -> Release:
    """Return a release of before, if it is of this model version."""
    if release.model_version != model_version:
        raise _other_version(release.task, release.round, release.model_version, model_version)
    return release


def _other_version(task: str, round: int, recorded: int, asked: int) -> Conflict:
    return Conflict(
        f"task {task!r}: round {round} starts from model version {recorded}, not {asked}",
        code="other_model_version",
    )
