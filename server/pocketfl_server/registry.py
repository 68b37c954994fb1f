"""The model registry: every version that a task's model ever had, and the only way to make another.

A version comes of a release of the trusted tier and of nothing else. The wall is a type: a task whose
signed plan asks for noise takes a :class:`NoisedRelease`; an :class:`UnprotectedRelease` moves only a
task whose plan says ``privacy: none``, and such a model is labelled for life.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from sqlalchemy import Connection, bindparam, func, select

from pocketfl.plan import Manifest, ModelSpec
from pocketfl.plan.manifest import Privacy
from pocketfl.plan.storage import decode_parameters, encode_parameters
from pocketfl.runtimes.interface import FloatVector
from pocketfl_server.blobs import Blobs
from pocketfl_server.database import clip_norms, models
from pocketfl_server.errors import Conflict, NotFound
from pocketfl_server.optimizers import (
    OptimizerSpec,
    OptimizerState,
    apply_update,
    decode_state,
    encode_state,
)
from pocketfl_server.records import ModelVersion
from pocketfl_server.releases import check_release, mean_update
from pocketfl_server.trusted.releases import Release

_INSERT = models.insert()
_INSERT_CLIP_NORM = clip_norms.insert()
_ONE = select(models).where(
    models.c.task == bindparam("task"), models.c.version == bindparam("version")
)
_ALL = select(models).where(models.c.task == bindparam("task")).order_by(models.c.version)
_LATEST = select(func.max(models.c.version)).where(models.c.task == bindparam("task"))
_RELEASES = select(func.count()).where(models.c.task == bindparam("task"), models.c.version > 0)


class DivergedError(ArithmeticError):
    """A release would make parameters that are not finite."""


@dataclass(frozen=True, kw_only=True, eq=False)
class NextModel:
    """A model version that was computed and is not stored yet."""

    parameters: bytes
    optimizer_state: bytes
    release: Release


class Registry:
    """Keeps model versions and computes the next one.

    Parameters
    ----------
    blobs : Blobs
        Where parameters and optimizer states are kept.
    """

    def __init__(self, blobs: Blobs) -> None:
        self._blobs = blobs

    def add_initial(
        self,
        connection: Connection,
        task: str,
        parameters: bytes,
        *,
        privacy: Privacy,
        clip_norm: float | None,
        now: float,
    ) -> None:
        """Store version 0: what the task starts from, labelled as all that will come of it.

        A task that asks queries without a model has a version 0 of no parameters, for its rounds to
        refer to.
        """
        connection.execute(
            _INSERT,
            {
                "task": task,
                "version": 0,
                "parameters_sha256": self._blobs.put(connection, "parameters", parameters),
                "privacy": privacy,
                "created_at": now,
            },
        )
        _store_clip_norm(connection, task, 0, clip_norm)

    def compute_next(
        self,
        connection: Connection,
        *,
        manifest: Manifest,
        plan_sha256: str,
        optimizer: OptimizerSpec,
        task: str,
        round_number: int,
        model_version: int,
        clip_norm: float | None,
        release: Release,
    ) -> NextModel:
        """Compute the version that a release makes of the one that its round started from.

        Parameters
        ----------
        manifest, plan_sha256
            The task's plan.
        optimizer : OptimizerSpec
            The task's.
        task, round_number, model_version, clip_norm
            What the release has to be of.
        release : NoisedRelease or UnprotectedRelease
            From the trusted tier.

        Raises
        ------
        ReleaseRefusedError
            If it is not the type that the plan's privacy calls for, or is of something else.
        DivergedError
            If the new parameters would not be finite.
        """
        check_release(
            release,
            manifest=manifest,
            plan_sha256=plan_sha256,
            task=task,
            round_number=round_number,
            model_version=model_version,
            clip_norm=clip_norm,
        )
        update = mean_update(
            release.values,
            manifest=manifest,
            plan_sha256=plan_sha256,
            task=task,
            round_number=round_number,
            clip_norm=clip_norm,
            reports=release.reports,
        )
        row = self._row(connection, task, model_version)
        model = manifest.required_model
        parameters = self._read(row["parameters_sha256"], model)
        state = OptimizerState()
        if row["optimizer_state_sha256"] is not None:
            encoded = self._blobs.get("optimizer_state", row["optimizer_state_sha256"])
            state = decode_state(encoded, length=update.size)
        moved, new_state = apply_update(
            optimizer, parameters, state, update, storage=model.stored_as
        )
        vectors = (moved, *new_state.moments.values())
        if not all(np.isfinite(vector).all() for vector in vectors):
            raise DivergedError(f"the new parameters would not be finite as {model.stored_as}")
        return NextModel(
            parameters=encode_parameters(moved, model.stored_as),
            optimizer_state=encode_state(new_state),
            release=release,
        )

    def store_next(
        self, connection: Connection, following: NextModel, manifest: Manifest, *, now: float
    ) -> int:
        """Store a computed version and return its number; a second version of a round cannot exist."""
        release = following.release
        version = release.model_version + 1
        connection.execute(
            _INSERT,
            {
                "task": release.task,
                "version": version,
                "parameters_sha256": self._blobs.put(
                    connection, "parameters", following.parameters
                ),
                "optimizer_state_sha256": self._blobs.put(
                    connection, "optimizer_state", following.optimizer_state
                ),
                "privacy": manifest.privacy,
                "round": release.round,
                "reports": release.reports,
                "noise_multiplier": release.noise_multiplier,
                "epsilon": release.epsilon,
                "epsilon_against_back_end": release.epsilon_against_back_end,
                "delta": release.delta,
                "created_at": now,
            },
        )
        _store_clip_norm(connection, release.task, version, release.next_clip_norm)
        return version

    def version(self, connection: Connection, task: str, version: int) -> ModelVersion:
        """Return one version.

        Raises
        ------
        NotFound
            With code ``unknown_model``.
        """
        return _record(self._row(connection, task, version))

    def versions(self, connection: Connection, task: str) -> tuple[ModelVersion, ...]:
        """Return every version of a task's model, oldest first."""
        rows = connection.execute(_ALL, {"task": task}).mappings()
        return tuple(_record(dict(row)) for row in rows)

    def latest(self, connection: Connection, task: str) -> int:
        """Return the number of the newest version."""
        return int(connection.execute(_LATEST, {"task": task}).scalar_one())

    def releases(self, connection: Connection, task: str) -> int:
        """Return how many versions came of a release."""
        return int(connection.execute(_RELEASES, {"task": task}).scalar_one())

    def parameters(self, record: ModelVersion, model: ModelSpec) -> FloatVector:
        """Return a version's parameters, shape (P,); the model is that of its task's plan."""
        return self._read(record.parameters_sha256, model)

    def _read(self, digest: str, model: ModelSpec) -> FloatVector:
        data = self._blobs.get("parameters", digest)
        return decode_parameters(data, count=model.parameter_count, storage=model.stored_as)

    def _row(self, connection: Connection, task: str, version: int) -> Mapping[str, Any]:
        row = connection.execute(_ONE, {"task": task, "version": version}).mappings().first()
        if row is None:
            raise NotFound(f"task {task!r} has no model version {version}", code="unknown_model")
        return dict(row)


def _store_clip_norm(
    connection: Connection, task: str, version: int, clip_norm: float | None
) -> None:
    if clip_norm is not None:
        connection.execute(
            _INSERT_CLIP_NORM, {"task": task, "version": version, "clip_norm": clip_norm}
        )


def check_seed(seed: ModelVersion, *, seed_manifest: Manifest, manifest: Manifest) -> None:
    """Refuse a seed that would smuggle unprotected parameters into a private task, or does not fit.

    To evaluate an unprotected model privately is fine: no model comes of that.

    Raises
    ------
    Conflict
        With code ``unprotected_seed`` or ``seed_does_not_fit``.
    """
    if seed_manifest.kind != "training":
        raise Conflict(f"task {seed.task!r} trains no model", code="seed_does_not_fit")
    unprotected = seed.privacy == "none" and manifest.privacy != "none"
    if unprotected and manifest.kind == "training":
        raise Conflict(
            f"{seed.task!r} version {seed.version} was trained without differential privacy and "
            f"cannot seed a task whose plan says privacy {manifest.privacy!r}",
            code="unprotected_seed",
        )
    if seed_manifest.required_model.parameters != manifest.required_model.parameters:
        raise Conflict(
            f"{seed.task!r} version {seed.version} has other parameter tensors than the plan",
            code="seed_does_not_fit",
        )


def _record(row: Mapping[str, Any]) -> ModelVersion:
    fields = {name: row[name] for name in row if name != "optimizer_state_sha256"}
    return ModelVersion(**fields)
