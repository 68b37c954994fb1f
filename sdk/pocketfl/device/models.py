"""The latest global model of each task, kept so that prediction works without a network."""

from __future__ import annotations

from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Final

from pocketfl.database import Database
from pocketfl.decoding import decode_json, encode_json
from pocketfl.errors import DecodeError, PlanError, StoreError
from pocketfl.plan import ModelSpec
from pocketfl.plan.storage import decode_parameters
from pocketfl.protocol import RoundNotice, check_digest, check_identifier
from pocketfl.runtimes import FloatVector

_TASKS_STATE: Final = "models"
_RECORD_LIMIT: Final = 1 * 2**20


@dataclass(frozen=True, kw_only=True)
class ModelInfo:
    """Which model it is.

    Attributes
    ----------
    task : str
        Whose model.
    model_version : int
        From 0.
    plan_sha256, parameters_sha256 : str
        Its parts.
    """

    task: str
    model_version: int
    plan_sha256: str
    parameters_sha256: str

    def __post_init__(self) -> None:
        check_identifier(self.task, what="task")
        check_digest(self.plan_sha256, what="plan_sha256")
        check_digest(self.parameters_sha256, what="parameters_sha256")

    @classmethod
    def of(cls, notice: RoundNotice) -> ModelInfo:
        """Return the model that a round starts from."""
        return cls(
            task=notice.task,
            model_version=notice.model_version,
            plan_sha256=notice.plan_sha256,
            parameters_sha256=notice.parameters_sha256,
        )


@dataclass(frozen=True, kw_only=True)
class _Models:
    """The latest model that rounds brought, and the one that a rollout put into use, of each task."""

    models: tuple[ModelInfo, ...]
    deployed: tuple[ModelInfo, ...] | None = None


def parse_parameters(data: bytes, *, digest: str, model: ModelSpec) -> FloatVector:
    """Check downloaded or stored parameters and return them as a vector.

    Parameters
    ----------
    data : bytes
        Flat and little-endian, as the plan stores them.
    digest : str
        SHA-256 (hex) that they must have.
    model : ModelSpec
        The plan's.

    Returns
    -------
    ndarray of float32, shape (P,)
        Finite.

    Raises
    ------
    PlanError
        If hash, length or a value is wrong.
    """
    if sha256(data).hexdigest() != digest:
        raise PlanError(f"the parameters are not the ones named {digest[:16]}")
    return decode_parameters(data, count=model.parameter_count, storage=model.stored_as)


class ModelShelf:
    """Models in the device's own database: plan and parameters by hash, and which task has which.

    Parameters
    ----------
    database : Database
        The device's file.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def models(self) -> dict[str, ModelInfo]:
        """Return the latest model of each task that rounds brought.

        Raises
        ------
        StoreError
            If the record is damaged.
        """
        return {model.task: model for model in self._record().models}

    def deployed(self) -> dict[str, ModelInfo]:
        """Return the model of each task that a rollout put into use; raises as :meth:`models`."""
        return {model.task: model for model in self._record().deployed or ()}

    def _record(self) -> _Models:
        data = self._database.read_state(_TASKS_STATE)
        if data is None:
            return _Models(models=())
        try:
            return decode_json(_Models, data, what="models", limit=_RECORD_LIMIT)
        except DecodeError as error:
            raise StoreError(f"the device's record of models is damaged: {error}") from None

    def put(
        self, model: ModelInfo, *, plan: bytes, parameters: bytes, deployed: bool = False
    ) -> None:
        """Keep a task's model instead of the one before: all of it, or nothing.

        Parameters
        ----------
        model : ModelInfo
            Which.
        plan, parameters : bytes
            Its parts.
        deployed : bool
            Whether a rollout put it into use; otherwise rounds brought it.
        """
        with self._database.transaction():
            record = self._record()
            kept = (record.deployed or ()) if deployed else record.models
            previous = next((other for other in kept if other.task == model.task), None)
            present = self._present(model)
            if previous == model and len(present) == 2:
                return
            changed = (*(other for other in kept if other.task != model.task), model)
            record = replace(record, **{"deployed" if deployed else "models": changed})
            needed = {
                name
                for other in (*record.models, *(record.deployed or ()))
                for name in _names(other)
            }
            for name, content in zip(_names(model), (plan, parameters), strict=True):
                if name not in present:
                    self._database.write_state(name, content)
            self._database.write_state(_TASKS_STATE, encode_json(record))
            if previous is not None and previous != model:
                for name in set(_names(previous)) - needed:
                    self._database.delete_state(name)

    def _present(self, model: ModelInfo) -> set[str]:
        rows = self._database.query(
            "SELECT name FROM device_state WHERE name IN (?, ?)", _names(model)
        )
        return {name for (name,) in rows}

    def plan(self, digest: str) -> bytes | None:
        """Return a kept plan's archive; its signature is for the caller to check."""
        return self._read(f"plan/{digest}", digest)

    def parameters(self, digest: str) -> bytes | None:
        """Return kept parameters; see :func:`parse_parameters`."""
        return self._read(f"parameters/{digest}", digest)

    def _read(self, name: str, digest: str) -> bytes | None:
        content = self._database.read_state(name)
        if content is None or sha256(content).hexdigest() == digest:
            return content
        # A damaged copy is as good as none: it is downloaded again.
        self._database.delete_state(name)
        return None


def _names(model: ModelInfo) -> tuple[str, str]:
    return f"plan/{model.plan_sha256}", f"parameters/{model.parameters_sha256}"
