"""Tasks: a name, a signed plan, a server optimizer, and the trusted tier's key for them."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

from sqlalchemy import Connection, Select, bindparam, func, select
from sqlalchemy.exc import IntegrityError

from pocketfl.errors import PlanError
from pocketfl.plan import Manifest, Plan
from pocketfl.plan.signing import parse_public_keys
from pocketfl.plan.storage import encode_parameters
from pocketfl.protocol import AggregatorKey, check_identifier
from pocketfl_server.blobs import Blobs
from pocketfl_server.credentials.epochs import check_rounds_per_token
from pocketfl_server.database import Database, asynchronous_tasks, models, tasks
from pocketfl_server.errors import Conflict, Malformed, NotFound
from pocketfl_server.optimizers import OptimizerSpec
from pocketfl_server.records import Concurrency, ModelReference, ModelVersion, TaskRecord
from pocketfl_server.registry import Registry, check_seed
from pocketfl_server.trusted.client import TrustedTier


def _described() -> Select[Any]:
    latest = (
        select(func.max(models.c.version)).where(models.c.task == tasks.c.name).scalar_subquery()
    )
    slots = asynchronous_tasks
    return select(
        tasks,
        latest.label("latest_version"),
        slots.c.selection_size,
        slots.c.open_slots,
        slots.c.reports_per_release,
    ).outerjoin(slots, slots.c.task == tasks.c.name)


_INSERT = tasks.insert()
_INSERT_SLOTS = asynchronous_tasks.insert()
_ONE = _described().where(tasks.c.name == bindparam("task"))
_ALL = _described().order_by(tasks.c.name)
_FINISH = (
    tasks.update()
    .where(tasks.c.name == bindparam("task"), tasks.c.state == "active")
    .values(state="finished", finished_reason=bindparam("reason"))
)


class Tasks:
    """Creates tasks and says where they stand.

    Parameters
    ----------
    database, blobs, registry
        Where things are kept.
    trusted : TrustedTier
        Binds a key to each task's plan.
    plan_keys : iterable of str or bytes
        Ed25519 public keys of the modellers whose plans are served.

    Raises
    ------
    PlanError
        If a key is malformed or none is given.
    """

    def __init__(
        self,
        database: Database,
        blobs: Blobs,
        registry: Registry,
        *,
        trusted: TrustedTier,
        plan_keys: Iterable[str | bytes],
    ) -> None:
        self._database = database
        self._blobs = blobs
        self._registry = registry
        self._trusted = trusted
        self._plan_keys = parse_public_keys(plan_keys)
        self._manifests: dict[str, Manifest] = {}
        self._creating = threading.Lock()

    def verify(self, plan_data: bytes) -> Plan:
        """Return a plan if a trusted modeller signed it.

        Raises
        ------
        Malformed
            With code ``plan_refused``.
        """
        try:
            return Plan.load(plan_data, trusted_keys=self._plan_keys)
        except PlanError as error:
            raise Malformed(f"the plan is refused: {error}", code="plan_refused") from None

    def add_plan(self, plan_data: bytes) -> Plan:
        """Verify a plan with every part that it starts from, and store it."""
        plan = self.verify(plan_data)
        _initial_parameters(plan)
        with self._database.writing() as connection:
            self._blobs.put(connection, "plan", plan_data)
        return plan

    def create(
        self,
        name: str,
        plan_data: bytes,
        *,
        optimizer: OptimizerSpec | None,
        seed_model: ModelReference | None,
        concurrency: Concurrency | None = None,
        rounds_per_token: int | None = None,
        now: float,
    ) -> TaskRecord:
        """Create a task; the same request again returns the same task.

        Raises
        ------
        Malformed
            If the name or the plan is refused, or the plan's kind needs an optimizer or a seed that is
            missing, or cannot use one that is given.
        Conflict
            If the name has another plan or other settings, the plan another task, or the seed may
            not or cannot be used.
        TrustedTierError
            If the trusted tier refuses the plan.
        """
        try:
            check_identifier(name, what="task")
        except ValueError as error:
            raise Malformed(str(error)) from None
        plan = self.verify(plan_data)
        own = _initial_parameters(plan)
        _check_settings(plan, optimizer=optimizer, seed_model=seed_model)
        _check_concurrency(plan, concurrency)
        rounds_per_token = _rounds_per_token(plan, rounds_per_token)
        with self._creating:
            existing = self._existing(
                name,
                plan,
                optimizer=optimizer,
                seed_model=seed_model,
                concurrency=concurrency,
                rounds_per_token=rounds_per_token,
            )
            if existing is not None:
                return existing
            parameters, privacy = own, plan.manifest.privacy
            if seed_model is not None:
                parameters, seed = self._seed(seed_model, plan.manifest)
                # What is only evaluated keeps its label.
                privacy = seed.privacy if plan.manifest.kind == "evaluation" else privacy
            # The last step that may refuse; the trusted tier answers a repetition with the same key.
            key = self._trusted.register(name, plan_data)
            if (key.plan_sha256, key.policy_hash) != (plan.sha256, plan.manifest.policy_hash):
                raise Conflict("the trusted tier answered for another plan", code="plan_mismatch")
            try:
                with self._database.writing() as connection:
                    self._blobs.put(connection, "plan", plan_data)
                    connection.execute(
                        _INSERT,
                        {
                            "name": name,
                            "plan_sha256": plan.sha256,
                            "privacy": plan.manifest.privacy,
                            "state": "active",
                            "optimizer": "" if optimizer is None else optimizer.to_json(),
                            "key_id": key.key_id,
                            "public_key": key.public_key,
                            "seed_task": seed_model.task if seed_model else None,
                            "seed_version": seed_model.version if seed_model else None,
                            "created_at": now,
                            "rounds_per_token": rounds_per_token,
                        },
                    )
                    bounds = plan.manifest.aggregation
                    if concurrency is not None and bounds.asynchronous is not None:
                        connection.execute(
                            _INSERT_SLOTS,
                            {
                                "task": name,
                                **asdict(concurrency),
                                "max_staleness": bounds.asynchronous.max_staleness,
                                "filling": True,
                            },
                        )
                    self._registry.add_initial(
                        connection,
                        name,
                        parameters or b"",
                        privacy=privacy,
                        clip_norm=None if bounds.adaptive is None else bounds.clip_norm,
                        now=now,
                    )
            except IntegrityError:
                raise Conflict(
                    f"task {name!r}, or another task of its plan, was created at the same time",
                    code="task_exists",
                ) from None
            return self.get(name)

    def get(self, name: str) -> TaskRecord:
        """Return a task.

        Raises
        ------
        NotFound
            With code ``unknown_task``.
        """
        with self._database.reading() as connection:
            row = connection.execute(_ONE, {"task": name}).mappings().first()
        if row is None:
            raise NotFound(f"no task {name[:128]!r} here", code="unknown_task")
        return self._record(dict(row))

    def all(self) -> tuple[TaskRecord, ...]:
        """Return every task by name."""
        with self._database.reading() as connection:
            rows = connection.execute(_ALL).mappings().all()
        return tuple(self._record(dict(row)) for row in rows)

    def manifest(self, plan_sha256: str) -> Manifest:
        """Return the manifest of a stored plan, verified once for each process."""
        manifest = self._manifests.get(plan_sha256)
        if manifest is None:
            manifest = self.verify(self._blobs.get("plan", plan_sha256)).manifest
            self._manifests[plan_sha256] = manifest
        return manifest

    def finish(self, connection: Connection, name: str, reason: str) -> None:
        """Let a task open no further round."""
        connection.execute(_FINISH, {"task": name, "reason": reason})

    def _existing(
        self,
        name: str,
        plan: Plan,
        *,
        optimizer: OptimizerSpec | None,
        seed_model: ModelReference | None,
        concurrency: Concurrency | None,
        rounds_per_token: int,
    ) -> TaskRecord | None:
        try:
            task = self.get(name)
        except NotFound:
            return None
        wanted = (plan.sha256, optimizer, seed_model, concurrency, rounds_per_token)
        if wanted != (
            task.plan_sha256,
            task.optimizer,
            task.seed_model,
            task.concurrency,
            task.rounds_per_token,
        ):
            raise Conflict(
                f"task {name!r} exists with another plan, optimizer, seed, concurrency or rounds per "
                "token; a task never changes, so give the new one another name",
                code="task_exists",
            )
        return task

    def _seed(self, seed: ModelReference, manifest: Manifest) -> tuple[bytes, ModelVersion]:
        seed_task = self.get(seed.task)
        with self._database.reading() as connection:
            version = self._registry.version(connection, seed.task, seed.version)
        seed_manifest = self.manifest(seed_task.plan_sha256)
        check_seed(version, seed_manifest=seed_manifest, manifest=manifest)
        vector = self._registry.parameters(version, seed_manifest.required_model)
        try:
            return encode_parameters(vector, manifest.required_model.stored_as), version
        except PlanError as error:
            raise Conflict(
                f"{seed.task!r} version {seed.version}: {error}", code="seed_does_not_fit"
            ) from None

    def _record(self, row: Mapping[str, Any]) -> TaskRecord:
        seed, concurrency = None, None
        if row["selection_size"] is not None:
            concurrency = Concurrency(
                selection_size=row["selection_size"],
                open_slots=row["open_slots"],
                reports_per_release=row["reports_per_release"],
            )
        if row["seed_task"] is not None:
            seed = ModelReference(task=row["seed_task"], version=row["seed_version"])
        return TaskRecord(
            name=row["name"],
            plan_sha256=row["plan_sha256"],
            kind=self.manifest(row["plan_sha256"]).kind,
            privacy=row["privacy"],
            state=row["state"],
            finished_reason=row["finished_reason"],
            latest_version=row["latest_version"],
            aggregator=AggregatorKey(key_id=row["key_id"], public_key=row["public_key"]),
            optimizer=OptimizerSpec.from_json(row["optimizer"]) if row["optimizer"] else None,
            seed_model=seed,
            concurrency=concurrency,
            rounds_per_token=row["rounds_per_token"],
            created_at=row["created_at"],
        )


def _initial_parameters(plan: Plan) -> bytes | None:
    """Return the parameters that a plan comes with; None where its kind does without."""
    manifest = plan.manifest
    if not manifest.has_parameters:
        return None
    try:
        return encode_parameters(plan.initial_parameters(), manifest.required_model.stored_as)
    except PlanError as error:
        raise Malformed(f"the plan is refused: {error}", code="plan_refused") from None


def _check_concurrency(plan: Plan, concurrency: Concurrency | None) -> None:
    bounds = plan.manifest.aggregation
    if (bounds.asynchronous is None) != (concurrency is None):
        needs = "has synchronous rounds" if bounds.asynchronous is None else "needs a concurrency"
        raise Malformed(
            f"the plan {needs}: selection_size, open_slots and reports_per_release go with "
            "asynchronous rounds, and only with them",
            code="wrong_settings",
        )
    if concurrency is not None and concurrency.reports_per_release < bounds.cohort_floor:
        raise Malformed(
            f"{concurrency.reports_per_release} reports per release are below the plan's cohort floor "
            f"of {bounds.cohort_floor}",
            code="wrong_settings",
        )


def _rounds_per_token(plan: Plan, wanted: int | None) -> int:
    try:
        return check_rounds_per_token(wanted, separation=plan.manifest.min_separation)
    except ValueError as error:
        raise Malformed(str(error), code="wrong_settings") from None


def _check_settings(
    plan: Plan, *, optimizer: OptimizerSpec | None, seed_model: ModelReference | None
) -> None:
    kind = plan.manifest.kind
    if (optimizer is not None) != (kind == "training"):
        needs = "needs an optimizer" if optimizer is None else "takes no optimizer"
        raise Malformed(f"a task of kind {kind!r} {needs}", code="wrong_settings")
    if kind == "analytics" and seed_model is not None:
        raise Malformed("a task of kind 'analytics' has no model to seed", code="wrong_settings")
    if kind == "evaluation" and seed_model is None and _initial_parameters(plan) is None:
        raise Malformed(
            "the plan comes without parameters: name the task and the version of the model that is to "
            "be evaluated as seed_model",
            code="wrong_settings",
        )
