"""The trusted tier's core: open, check, sum, add noise, charge, release. No network here.

A report that does not check out is left out and counted by reason; none is ever rescaled. The budget
is looked at before the first report is opened, the floor before noise is drawn, and a noised sum leaves
only after it and its charge are on disk. Nothing of a report's contents is logged or put in a message.
"""

# ruff: noqa: A002 - "round" is the word of the field

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, field
from functools import partial
from hashlib import sha256
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import numpy as np

from pocketfl.attestation.binding import head_nonce, key_nonce, token_keys_nonce
from pocketfl.encoding import Rotation
from pocketfl.errors import PlanError
from pocketfl.plan import AggregationSpec, DifferentialPrivacySpec, Plan
from pocketfl.plan.asynchronous import staleness_weight
from pocketfl.plan.manifest import Manifest
from pocketfl.plan.signing import parse_public_keys
from pocketfl.protocol import AggregatorKey, Attestation, LedgerHead, check_identifier
from pocketfl.reports import report_size
from pocketfl.sealing import ReportContext, generate_key_pair, key_id
from pocketfl_server.trusted.accounting import (
    affords,
    budget_statement,
    check_claims,
    planned_privacy,
    progress,
    spent_privacy,
)
from pocketfl_server.trusted.attesters import AttestationError, Attester
from pocketfl_server.trusted.events import spent_event
from pocketfl_server.trusted.ledger import (
    BudgetConflictError,
    Charge,
    LeaseTakenError,
    Ledger,
    Origin,
    RoundFullError,
    TaskRecord,
)
from pocketfl_server.trusted.messages import (
    BudgetExhausted,
    BudgetStatement,
    Conflict,
    FloorNotReached,
    IntegerVector,
    KeyDescription,
    MalformedRequest,
    NoisedRelease,
    PlanRefused,
    PrivacyStatement,
    PublishedTokenKeys,
    Release,
    ReleaseSummary,
    SealedEntry,
    SealedPartialSum,
    SealedRelease,
    TaskDescription,
    TokenKeyDigest,
    TrustedTierUnavailable,
    UnknownTask,
    UnprotectedRelease,
    batches,
    decode_release,
    encode_release,
)
from pocketfl_server.trusted.noise import add_noise
from pocketfl_server.trusted.observing import Nobody, Observer
from pocketfl_server.trusted.shards import Sharding, Shards, TaskKeys
from pocketfl_server.trusted.summing import (
    STALE,
    Page,
    PartialSum,
    RoundOfReports,
    require_room,
)
from pocketfl_server.trusted.token_keys import TokenKeysConflictError
from pocketfl_server.trusted.tree import advance
from pocketfl_server.trusted.witness import Witness, WitnessError, check_against
from pocketfl_server.trusted.workers import Workers

_MAX_NUMBER: Final = 2**31 - 1
_ANY_LEASE: Final = 16 * "0"
"""Stands in for that of each report."""
_PAGE_BYTES: Final = 4 * 2**20
"""Sealed reports that a worker gets at a time."""


@dataclass(frozen=True, kw_only=True, repr=False)
class _Task:
    """What requests need of a task; never printed, because it holds the private key."""

    name: str
    manifest: Manifest
    plan_sha256: str
    private_key: bytes
    key: KeyDescription
    lock: threading.RLock = field(default_factory=threading.RLock)


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
        if witness is not None:
            try:
                check_against(witness, self._ledger.head())
                for task, head in self._ledger.token_key_heads().items():
                    check_against(witness, head, log=_token_key_log(task))
            except BaseException:
                self._ledger.close()
                raise
        self._shards = None if sharding is None else Shards(sharding, self._ledger)
        self._tasks: dict[str, _Task] = {}
        self._lock = threading.RLock()
        self._witness_lock = threading.Lock()
        self._account_locks: dict[str, threading.RLock] = {}

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
            budget=self._budget(state, releasing=None),
            affords_next=self._affords_next(state, releases=count, last_round=last),
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
                    _draw(manifest.dp, manifest.aggregation, 0)

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

    def _attest(self, state: _Task, *, token_keys: LedgerHead | None = None) -> Attestation | None:
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
        with state.lock, self._account_lock(state):
            stored = self._ledger.release(task, round)
            if stored is not None:
                earlier = _of_version(decode_release(stored), model_version)
                self._tell_witness()
                return earlier
            self._check_open(task, round, model_version)
            releases, _ = self._ledger.releases(task)
            number = progress(state.manifest, releases=releases + 1, last_round=round)
            spent = self._check_budget(state, number)
            budget = self._check_account(state, round)
            aggregation = state.manifest.aggregation.in_round(self._clip_norm(state))
            result = self._sum(state, round, model_version, aggregation)
            if self._shards is not None:
                self._shards.add_to(result, _keys(state), round, model_version)
            floor = aggregation.cohort_floor
            if result.accepted < floor:
                raise FloorNotReached(
                    f"task {task!r}, round {round}: {result.accepted} valid reports, {floor} needed; "
                    "nothing was released or charged",
                    details={"accepted": result.accepted, "floor": floor, **result.reasons()},
                )
            noise, nodes = self._draw_noise(state, round)
            release = _make_release(
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
            earlier = self._shards.handed_over(_keys(state), round, model_version, root)
            if earlier is not None:
                return earlier
            self._check_open(task, round, model_version)
            part = self._sum(state, round, model_version, state.manifest.aggregation)
            own = self._own_key(state)
            partial = self._shards.hand_over(
                _keys(state), round, model_version, part, root=root, own=own
            )
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
        return self._shards.forward(
            _keys(state), round, model_version, stored, shard=shard, own=own
        )

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
            self._shards.adopt(_keys(state), sealed)
            self._ledger.abandon(sealed.task, sealed.round)

    def _own_key(self, state: _Task) -> AggregatorKey:
        return AggregatorKey(
            key_id=state.key.key_id,
            public_key=state.key.public_key,
            attestation=self.attest(state.name),
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
            self._shards.accept(_keys(state), partial)

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

    def _draw_noise(
        self, state: _Task, round: int
    ) -> tuple[IntegerVector | None, dict[int, IntegerVector]]:
        """Return a release's noise, and the nodes of a tree that go on record with it."""
        manifest = state.manifest
        if manifest.dp is None:
            return None, {}
        draw = partial(_draw, manifest.dp, manifest.aggregation, manifest.report_length)
        if manifest.dp.tree is None:
            return draw(), {}
        return advance(self._ledger.tree_nodes(state.name), number=round, draw=draw)

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

    def _task(self, name: str) -> _Task:
        _check_name(name)
        with self._lock:
            known = self._tasks.get(name)
            if known is not None:
                return known
            record = self._ledger.task(name)
            if record is None:
                raise UnknownTask(f"no task {name!r} here; register its plan first")
            plan = self._verify(record.plan)
            known = _Task(
                name=name,
                manifest=plan.manifest,
                plan_sha256=plan.sha256,
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

    def _check_budget(self, state: _Task, releases: int) -> PrivacyStatement:
        """Return what so many releases spend, if the plan affords them."""
        manifest = state.manifest
        spent = spent_privacy(manifest, releases)
        if affords(manifest, releases):
            return spent
        if releases > manifest.aggregation.max_rounds:
            reason = f"the plan allows {manifest.aggregation.max_rounds} releases, all are used"
        else:
            budget = 0.0 if manifest.dp is None else manifest.dp.epsilon
            reason = (
                f"release {releases} would bring epsilon to {spent.epsilon:.4g}, above the plan's "
                f"{budget:g}"
            )
        raise BudgetExhausted(
            f"task {state.name!r}: {reason}; nothing was released or charged",
            details={"releases": releases - 1},
        )

    def _affords_next(self, state: _Task, *, releases: int, last_round: int) -> bool:
        following = progress(state.manifest, releases=releases + 1, last_round=last_round + 1)
        if not affords(state.manifest, following):
            return False
        account = self._budget(state, releasing=last_round + 1)
        return account is None or account.spent <= account.epsilon

    def _budget(self, state: _Task, *, releasing: int | None) -> BudgetStatement | None:
        """Return where the task's shared account stands, once a round of the task is released too."""
        budget = state.manifest.budget
        if budget is None:
            return None
        counts = {}
        for name in self._ledger.tasks_of_budget(budget.name):
            count, last = self._ledger.releases(name)
            if releasing is not None and name == state.name:
                count, last = count + 1, releasing
            manifest = self._task(name).manifest
            counts[name] = (manifest, progress(manifest, releases=count, last_round=last))
        return budget_statement(counts)

    def _check_account(self, state: _Task, round: int) -> BudgetStatement | None:
        """Return what the shared account comes to with one more release, if it affords that."""
        account = self._budget(state, releasing=round)
        if account is None or account.spent <= account.epsilon:
            return account
        others = sum(account.releases.values()) - account.releases[state.name]
        raise BudgetExhausted(
            f"task {state.name!r}: one more release would bring the epsilon of the budget "
            f"{account.name!r} to {account.spent:.4g}, above its {account.epsilon:g}, with {others} "
            "releases of other tasks; nothing was released or charged",
            details={"budget": account.name, "releases": account.releases[state.name] - 1},
        )

    def _account_lock(self, state: _Task) -> AbstractContextManager[object]:
        """Return what keeps two tasks of one account from both taking the rest of it."""
        budget = state.manifest.budget
        if budget is None:
            return nullcontext()
        with self._lock:
            return self._account_locks.setdefault(budget.name, threading.RLock())

    def _clip_norm(self, state: _Task) -> float | None:
        """Return the clip norm of the round to be released, where the plan lets it adapt.

        It follows from the last release alone, so this tier knows it without being told.
        """
        aggregation = state.manifest.aggregation
        if aggregation.adaptive is None:
            return None
        _, last = self._ledger.releases(state.name)
        stored = self._ledger.release(state.name, last)
        return aggregation.clip_norm if stored is None else decode_release(stored).next_clip_norm

    def _sum(
        self, state: _Task, round: int, model_version: int, aggregation: AggregationSpec
    ) -> PartialSum:
        """Open and check every report of a round and sum the good ones exactly.

        Where rounds are asynchronous, with the weight of its staleness each.
        """
        spec = aggregation.asynchronous
        if spec is None:
            return self._sum_of(state, round, (round, model_version), aggregation)
        whole = PartialSum(total=np.zeros(state.manifest.report_length, dtype=np.int64))
        for origin, count in self._ledger.origins(state.name, round):
            staleness = round - (round if origin is None else origin[0])
            if origin is None or not 0 <= staleness <= spec.max_staleness:
                whole.rejected[STALE] += count
                continue
            part = self._sum_of(state, round, origin, aggregation)
            part.total *= staleness_weight(staleness)
            whole.add(part)
            require_room(whole.accepted, aggregation.norm_bound * aggregation.whole_weight)
        return whole

    def _sum_of(
        self, state: _Task, round: int, origin: Origin, aggregation: AggregationSpec
    ) -> PartialSum:
        """Sum what was submitted to a round by devices that checked in to the same one."""
        manifest = state.manifest
        reports = RoundOfReports(
            private_key=state.private_key,
            context=ReportContext(
                key_id=state.key.key_id,
                policy_hash=state.key.policy_hash,
                plan_sha256=state.plan_sha256,
                task=state.name,
                round=origin[0],
                model_version=origin[1],
                clip_norm=None if aggregation.adaptive is None else aggregation.clip_norm,
                lease=_ANY_LEASE,
            ),
            length=manifest.report_length,
            bits=manifest.report_bits,
            norm_bound=aggregation.norm_bound,
            # A rotation spreads the vote over all coordinates: there the norm alone bounds it.
            count_weight=0 if aggregation.encoding is not None else aggregation.count_weight,
        )
        where = None if aggregation.asynchronous is None else origin
        return self._workers.sum(reports, self._pages(state, round, where))

    def _pages(self, state: _Task, round: int, origin: Origin | None) -> Iterator[Page]:
        # Workers get many at a time. This process itself takes one after the other, whose memory is
        # then still in the processor's cache.
        at_once = max(1, _PAGE_BYTES // report_size(state.manifest))
        if self._workers.count == 1:
            at_once = 1
        return self._ledger.pages(state.name, round, at_once=at_once, origin=origin)


def _draw(dp: DifferentialPrivacySpec, aggregation: AggregationSpec, length: int) -> IntegerVector:
    """Return so many coordinates of a plan's noise."""
    return add_noise(
        np.zeros(length, dtype=np.int64),
        noise_multiplier=dp.noise_multiplier,
        norm_bound=aggregation.norm_bound * aggregation.whole_weight,
    )


def _make_release(
    state: _Task,
    round: int,
    model_version: int,
    result: PartialSum,
    *,
    aggregation: AggregationSpec,
    spent: PrivacyStatement,
    budget: BudgetStatement | None,
    privacy_event: str,
    noise: IntegerVector | None,
) -> Release:
    """Add the noise that the plan asks for; the only way from a sum to a release."""
    unprotected = state.manifest.privacy == "none"
    if not unprotected and noise is None:
        raise RuntimeError("a private release needs noise")
    values = result.total if noise is None else result.total + noise
    clip_norm, following, within = _move_clip_norm(state, round, result, values, aggregation)
    summary = ReleaseSummary(
        kind="unprotected" if unprotected else "noised",
        task=state.name,
        round=round,
        model_version=model_version,
        plan_sha256=state.plan_sha256,
        policy_hash=state.key.policy_hash,
        reports=result.accepted,
        rejected=result.reasons(),
        grid_step=aggregation.release_step,
        expected_cohort=aggregation.expected_cohort,
        noise_multiplier=spent.noise_multiplier,
        epsilon=spent.epsilon,
        epsilon_against_back_end=spent.epsilon_against_back_end,
        delta=spent.delta,
        budget=budget,
        clip_norm=clip_norm,
        next_clip_norm=following,
        share_within=within,
        privacy_event=privacy_event,
    )
    kind = UnprotectedRelease if unprotected else NoisedRelease
    return kind(summary=summary, values=values)


def _move_clip_norm(
    state: _Task,
    round: int,
    result: PartialSum,
    released: IntegerVector,
    aggregation: AggregationSpec,
) -> tuple[float | None, float | None, float | None]:
    """Return this round's clip norm, the next one's and the share within, all of what is released."""
    adaptive = aggregation.adaptive
    if adaptive is None:
        return None, None, None
    values = released.astype(np.float64)
    if aggregation.encoding is not None:
        rotation = Rotation.of_round(
            state.manifest.summed_length,
            plan_sha256=state.plan_sha256,
            task=state.name,
            round=round,
        )
        values = rotation.invert(released)
    within = adaptive.share_within(
        float(values[-1]), norm_bound=aggregation.norm_bound, reports=result.accepted
    )
    return aggregation.clip_norm, adaptive.following(aggregation.clip_norm, within), within


def _keys(state: _Task) -> TaskKeys:
    return TaskKeys(
        task=state.name,
        manifest=state.manifest,
        private_key=state.private_key,
        key=state.key,
    )


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
