"""The back end without a network: everything that devices and operators may ask of it.

:mod:`.api` puts HTTP in front of it, :mod:`.in_process` a transport for devices in the same process.
The back end holds no key that opens a report; what moves a model comes from the trusted tier.
"""

# ruff: noqa: A002 - "round" is the word of the field

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from types import TracebackType
from typing import Self

from sqlalchemy import Connection

from pocketfl.plan import Manifest, Plan
from pocketfl.plan.storage import Storage
from pocketfl.protocol import (
    Assignment,
    CheckIn,
    Enrolment,
    EnrolmentRequest,
    FeaturePage,
    FeatureRow,
    Notices,
    ReportReceipt,
    RetryWindow,
    RoundNotice,
    TokenKeys,
)
from pocketfl.runtimes.interface import FloatVector
from pocketfl_server.analytics.records import ResultSummary, TaskResult
from pocketfl_server.analytics.results import Results
from pocketfl_server.attestations import Attestations
from pocketfl_server.audit import AuditLog
from pocketfl_server.blobs import BlobKind, Blobs
from pocketfl_server.coordinator import Coordinator
from pocketfl_server.credentials.directory import PublicDirectory
from pocketfl_server.credentials.issuer import TokenIssuer
from pocketfl_server.credentials.redemption import Redemption
from pocketfl_server.database import Database
from pocketfl_server.enrolment import Enrolments
from pocketfl_server.errors import NotFound
from pocketfl_server.intake import Intake
from pocketfl_server.optimizers import OptimizerSpec
from pocketfl_server.pacing import DEFAULT_PER_SECOND, Arrivals
from pocketfl_server.pauses import Pauses
from pocketfl_server.records import (
    Concurrency,
    FleetVersions,
    Funnel,
    ModelReference,
    ModelVersion,
    PauseRecord,
    PauseRequest,
    RolloutRecord,
    RoundResult,
    Schedule,
    ScheduleRecord,
    TaskRecord,
)
from pocketfl_server.registry import Registry
from pocketfl_server.rollouts import Rollouts
from pocketfl_server.rounds import Rounds
from pocketfl_server.schedules import Schedules
from pocketfl_server.tasks import Tasks
from pocketfl_server.trusted.client import TrustedTier
from pocketfl_server.trusted.messages import TaskDescription
from pocketfl_server.user_features import EncodedPage, UserFeatures
from pocketfl_server.versions import Versions


class BackEnd:
    """Tasks, rounds, models and features over one database; safe for threads.

    Parameters
    ----------
    database_url : str
        ``sqlite:///FILE`` or ``postgresql+psycopg://...``.
    trusted : TrustedTier
        Opens, sums and releases reports; in another process outside of tests.
    plan_keys : iterable of str or bytes
        Ed25519 public keys of the modellers whose plans are served.
    enrolment_key : str
        The secret that apps enrol with, at least 16 characters.
    rollout_keys : iterable of str or bytes, optional
        Public keys of those whose rollout documents are taken; the modellers' by default.
    anonymous_only : bool
        Whether devices have to check in with anonymous tokens.
    arrivals_per_second : float
        Check-ins that devices which are turned away are spread to.
    clock : callable, optional
        Returns Unix time in seconds.

    Attributes
    ----------
    database : Database
        The one that it runs on.
    audit : AuditLog
        What operators did and what was released.

    Raises
    ------
    DatabaseUnusableError
        If the database cannot be used.
    PlanError
        If no usable plan key is given.
    """

    def __init__(
        self,
        database_url: str,
        *,
        trusted: TrustedTier,
        plan_keys: Iterable[str | bytes],
        enrolment_key: str,
        rollout_keys: Iterable[str | bytes] | None = None,
        anonymous_only: bool = False,
        arrivals_per_second: float = DEFAULT_PER_SECOND,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._clock = clock
        plan_keys = tuple(plan_keys)
        self._trusted = trusted
        self._enrolments = Enrolments(enrolment_key=enrolment_key)
        self.database = Database(database_url)
        self._blobs = Blobs(self.database)
        self._registry = Registry(self._blobs)
        try:
            self._tasks = Tasks(
                self.database, self._blobs, self._registry, trusted=trusted, plan_keys=plan_keys
            )
            self._rollouts = Rollouts(
                self.database,
                self._blobs,
                self._tasks,
                self._registry,
                keys=plan_keys if rollout_keys is None else rollout_keys,
            )
        except BaseException:
            self.database.close()
            raise
        self._rounds = Rounds(self.database, self._tasks, self._registry)
        self._pauses = Pauses(self.database, self._tasks)
        self._schedules = Schedules(
            self.database, self._tasks, self._rounds, self._pauses, trusted=trusted
        )
        self._issuer = TokenIssuer(
            self.database,
            self._tasks,
            self._enrolments,
            directory=PublicDirectory(trusted, clock=clock),
        )
        self._attestations = Attestations(trusted, clock=clock)
        self._versions = Versions(self.database)
        self._intake = Intake(
            self.database,
            self._enrolments,
            self._rounds,
            attestations=self._attestations,
            redemption=Redemption(self.database),
            anonymous_only=anonymous_only,
            arrivals=Arrivals(per_second=arrivals_per_second),
            versions=self._versions,
            clock=clock,
        )
        self._results = Results(self.database)
        self._coordinator = Coordinator(
            self.database,
            self._tasks,
            self._rounds,
            self._registry,
            self._results,
            trusted=trusted,
            clock=clock,
        )
        self._user_features = UserFeatures(self.database)
        self.audit = AuditLog(self.database)

    def close(self) -> None:
        """Close the database."""
        self.database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def now(self) -> float:
        """Return the time by this back end's clock, in Unix seconds."""
        return self._clock()

    # What devices ask.

    def enrol(self, key: str, request: EnrolmentRequest) -> Enrolment:
        """Exchange the app's enrolment key for a device token; see :class:`.Enrolments`."""
        operation = self.prepare_enrol(key, request)
        with self.database.writing() as connection:
            return operation(connection)

    def prepare_enrol(
        self, key: str, request: EnrolmentRequest
    ) -> Callable[[Connection], Enrolment]:
        """Return :meth:`enrol` as an operation for a shared transaction."""
        self._enrolments.check(key, request)
        now = self._clock()
        return lambda connection: self._enrolments.add(connection, request, now=now)

    def notices(self) -> Notices:
        """Return open rounds, pauses and rollouts, the same answer for everybody."""
        open_rounds = self._rounds.open_rounds(now=self._clock())
        said = Notices(notices=(), pauses=self._pauses.announced())
        # A model that devices shall stay away from is not offered for prediction either.
        listed = tuple(notice for notice in open_rounds if said.pause_of(notice.task) is None)
        # A rollout may have to take back what a paused task brought.
        return Notices(notices=listed, pauses=said.pauses, rollouts=self._rollouts.announced())

    def check_in(
        self, token: str, task: str, round: int, request: CheckIn
    ) -> Assignment | RetryWindow:
        """Give a device a lease in a round, or a time at which to come back.

        Nothing is promised that a loss of power could break: a lease is good without any record of it.
        """
        operation = self.prepare_check_in(token, task, round, request)
        with self.database.writing(durable=False) as connection:
            return operation(connection)

    def prepare_check_in(
        self, token: str, task: str, round: int, request: CheckIn
    ) -> Callable[[Connection], Assignment | RetryWindow]:
        """Return :meth:`check_in` as an operation for a shared transaction."""
        return self._intake.check_in(token, task, round, request)

    def check_in_anonymously(
        self, token: bytes, task: str, round: int, request: CheckIn
    ) -> Assignment | RetryWindow:
        """Give whoever has a token for the round a lease; each token once."""
        operation = self.prepare_anonymous_check_in(token, task, round, request)
        with self.database.writing() as connection:
            return operation(connection)

    def prepare_anonymous_check_in(
        self, token: bytes, task: str, round: int, request: CheckIn
    ) -> Callable[[Connection], Assignment | RetryWindow]:
        """Return :meth:`check_in_anonymously` as an operation for a shared transaction."""
        return self._intake.check_in_anonymously(token, task, round, request)

    def token_keys(self, task: str) -> TokenKeys:
        """Return the keys that sign tokens for the task's next epochs; see :class:`.TokenIssuer`."""
        return self._issuer.keys(task)

    def sign_token(self, token: str, task: str, round: int, request: bytes) -> bytes:
        """Sign a device's blinded token; see :class:`.TokenIssuer`."""
        return self._issuer.issue(token, task, round, request)

    def plan(self, sha256: str) -> bytes:
        """Return a plan's archive."""
        return self._blobs.get("plan", sha256)

    def parameters(self, sha256: str) -> bytes:
        """Return parameters, little-endian, in the storage of their plan."""
        return self._blobs.get("parameters", sha256)

    def rollout_document(self, sha256: str) -> bytes:
        """Return a signed rollout document."""
        return self._blobs.get("rollout", sha256)

    def has_content(self, kind: BlobKind, sha256: str) -> bool:
        """Say whether there is a plan, or whatever it is, with this hash."""
        return self._blobs.exists(kind, sha256)

    def report_bytes(self, lease: str) -> int:
        """Return the length of every report under this lease's plan."""
        return self._intake.report_bytes(lease)

    def upload(self, lease: str, body: bytes) -> ReportReceipt:
        """Take in a sealed report; once this returns, the report is on disk."""
        operation = self.prepare_upload(lease, body)
        with self.database.writing() as connection:
            return operation(connection)

    def prepare_upload(self, lease: str, body: bytes) -> Callable[[Connection], ReportReceipt]:
        """Return :meth:`upload` as an operation for a shared transaction."""
        return self._intake.upload(lease, body)

    def features(self, token: str, table: str, cursor: str | None = None) -> FeaturePage:
        """Return rows of the features of the user whose device this is."""
        return self.encoded_features(token, table, cursor).decode()

    def encoded_features(self, token: str, table: str, cursor: str | None = None) -> EncodedPage:
        """Return :meth:`features` without decoding what is stored as JSON."""
        with self.database.reading() as connection:
            identity = self._enrolments.authenticate(connection, token)
            return self._user_features.page(connection, identity.user, table, cursor)

    def _prepare(self, notice: RoundNotice) -> None:
        """Have a new round's key attested and its parameters read before the first devices wait."""
        facts = self._rounds.facts(notice.task, notice.round)
        if facts is not None:
            self._attestations.key(facts)
            self._blobs.get("parameters", facts.parameters_sha256)

    # What operators ask.

    def add_plan(self, plan_data: bytes) -> Plan:
        """Verify and store a plan."""
        return self._tasks.add_plan(plan_data)

    def create_task(
        self,
        name: str,
        plan_data: bytes,
        *,
        optimizer: OptimizerSpec | None = None,
        seed_model: tuple[str, int] | None = None,
        concurrency: Concurrency | None = None,
        rounds_per_token: int | None = None,
    ) -> TaskRecord:
        """Create a task; repeating the same request changes nothing.

        Parameters
        ----------
        name : str
            Letters, digits, ".", "_", "-".
        plan_data : bytes
            The signed plan's archive.
        optimizer : OptimizerSpec, optional
            The server's; for a plan that trains, and only for one.
        seed_model : (task, version), optional
            Start from that model instead of from the plan's initial parameters, or evaluate that one.
        concurrency : Concurrency, optional
            For a plan of asynchronous rounds, and only for one.
        rounds_per_token : int, optional
            Rounds in a row for one of which an anonymous token is good; by default as many as the
            plan's separation.
        """
        seed = None
        if seed_model is not None:
            seed = ModelReference(task=seed_model[0], version=seed_model[1])
        return self._tasks.create(
            name,
            plan_data,
            optimizer=optimizer,
            seed_model=seed,
            concurrency=concurrency,
            rounds_per_token=rounds_per_token,
            now=self._clock(),
        )

    def task(self, name: str) -> TaskRecord:
        """Return a task."""
        return self._tasks.get(name)

    def tasks(self) -> tuple[TaskRecord, ...]:
        """Return every task."""
        return self._tasks.all()

    def privacy(self, task: str) -> TaskDescription:
        """Return what the trusted tier says about a task's planned and spent privacy."""
        return self._trusted.describe(self._tasks.get(task).name)

    def open_round(self, task: str, *, seconds: float, number: int | None = None) -> RoundNotice:
        """Open a task's next round; see :meth:`.Rounds.open`."""
        notice = self._rounds.open(task, seconds=seconds, now=self._clock(), number=number)
        self._prepare(notice)
        return notice

    def close_round(self, task: str, round: int | None = None) -> RoundResult:
        """End a round with a new model version; see :meth:`.Coordinator.close`."""
        result = self._coordinator.close(task, round)
        self.open_due_rounds(only=task)
        return result

    def abort_round(self, task: str, round: int | None = None) -> RoundResult:
        """End a round without one; see :meth:`.Coordinator.abort`."""
        result = self._coordinator.abort(task, round)
        self.open_due_rounds(only=task)
        return result

    def adopt_release(self, task: str, round: int) -> ModelVersion:
        """Take the root's release of a round into a shard's model; see :meth:`.Coordinator.adopt`."""
        return self.model(task, self._coordinator.adopt(task, round))

    def start_task(self, task: str, schedule: Schedule) -> ScheduleRecord:
        """Have a task's rounds opened from now on, the first at once; see :meth:`.Schedules.start`."""
        self._schedules.start(task, schedule, now=self._clock())
        self.open_due_rounds(only=task)
        return self.schedule(task)

    def stop_task(self, task: str) -> ScheduleRecord:
        """Open no further round; the one under way goes on. See :meth:`.Schedules.stop`."""
        self._schedules.stop(task, now=self._clock())
        return self.schedule(task)

    def schedule(self, task: str) -> ScheduleRecord:
        """Return how a task's rounds follow one another, and what happens next."""
        return self._schedules.record(task, now=self._clock())

    def open_due_rounds(self, *, only: str | None = None) -> list[RoundNotice]:
        """Open every round that is due; see :meth:`.Schedules.open_due`."""
        opened = self._schedules.open_due(now=self._clock(), only=only)
        for notice in opened:
            self._prepare(notice)
        return opened

    def close_due_rounds(self) -> list[RoundResult]:
        """End every round past its deadline or half-ended; see :meth:`.Coordinator.close_due`."""
        return self._coordinator.close_due()

    def turn_rounds(self) -> None:
        """End the rounds that are due, then open those that are; keep the counts of versions."""
        self._versions.keep()
        self.close_due_rounds()
        self.open_due_rounds()

    def pause(self, task: str | None, request: PauseRequest) -> PauseRecord:
        """Keep devices away from a task, or with None from all; reports under way are still taken."""
        return self._pauses.pause(task, request, now=self._clock())

    def resume(self, task: str | None) -> tuple[PauseRecord, ...]:
        """End such a pause; returns those that still hold."""
        return self._pauses.resume(task)

    def pauses(self) -> tuple[PauseRecord, ...]:
        """Return every pause."""
        return self._pauses.all()

    def manifest(self, task: str) -> Manifest:
        """Return what a task's plan says."""
        return self._tasks.manifest(self._tasks.get(task).plan_sha256)

    def fleet(self) -> dict[str, int]:
        """Return how many devices have enrolled with each version of the SDK."""
        with self.database.reading() as connection:
            return self._enrolments.count_by_sdk(connection)

    def versions(self, task: str) -> FleetVersions | None:
        """Return what devices of the task's last round run, coarsely; see :class:`.Versions`."""
        return self._versions.of_last_round(self._tasks.get(task).name)

    def publish_rollout(self, task: str, data: bytes) -> RolloutRecord:
        """Announce a signed rollout document; see :meth:`.Rollouts.publish`."""
        return self._rollouts.publish(task, data, now=self._clock())

    def rollouts(self, task: str) -> tuple[RolloutRecord, ...]:
        """Return every rollout document of a task, oldest first."""
        return self._rollouts.all(task)

    def round(self, task: str, round: int) -> RoundResult:
        """Return a round."""
        return self._rounds.result(task, round)

    def rounds(self, task: str) -> tuple[RoundResult, ...]:
        """Return every round of a task."""
        return self._rounds.results(task)

    def funnel(self, task: str, round: int) -> Funnel:
        """Return how many devices got how far in a round."""
        return self._rounds.funnel(task, round)

    def models(self, task: str) -> tuple[ModelVersion, ...]:
        """Return every version of a task's model, oldest first; none of a task without a model."""
        storage = self._storage(task)
        if storage is None:
            return ()
        with self.database.reading() as connection:
            versions = self._registry.versions(connection, task)
        return tuple(replace(version, storage=storage) for version in versions)

    def results(self, task: str) -> tuple[ResultSummary, ...]:
        """Return every release of a task that asks queries, oldest first, without its values."""
        plan_sha256 = self._tasks.get(task).plan_sha256
        manifest = self._tasks.manifest(plan_sha256)
        return self._results.summaries(task, manifest=manifest, plan_sha256=plan_sha256)

    def result(self, task: str, round: int) -> TaskResult:
        """Return one release of a task that asks queries, in natural units."""
        plan_sha256 = self._tasks.get(task).plan_sha256
        manifest = self._tasks.manifest(plan_sha256)
        return self._results.get(task, round, manifest=manifest, plan_sha256=plan_sha256)

    def model(self, task: str, version: int) -> ModelVersion:
        """Return one version of a task's model."""
        storage = self._storage(task) or "float32"
        if not 0 <= version < 2**31:
            raise NotFound(f"task {task!r} has no model version {version}", code="unknown_model")
        with self.database.reading() as connection:
            return replace(self._registry.version(connection, task, version), storage=storage)

    def model_parameters(self, task: str, version: int) -> FloatVector:
        """Return one version's parameters, float32 of shape (P,)."""
        record = self.model(task, version)
        manifest = self._tasks.manifest(self._tasks.get(task).plan_sha256)
        return self._registry.parameters(record, manifest.required_model)

    def _storage(self, task: str) -> Storage | None:
        model = self._tasks.manifest(self._tasks.get(task).plan_sha256).model
        return None if model is None else model.stored_as

    def put_features(self, user: str, table: str, rows: Iterable[FeatureRow]) -> int:
        """Store rows of one user's features; returns how many."""
        return self._user_features.put(table, {user: rows})

    def put_features_of_users(
        self, table: str, rows_of_users: Mapping[str, Iterable[FeatureRow]]
    ) -> int:
        """Store rows for many users at once; returns how many."""
        return self._user_features.put(table, rows_of_users)
