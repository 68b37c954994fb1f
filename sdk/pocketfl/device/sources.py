"""Where a device gets its plans and models: from memory, from its store, or from the server."""

from __future__ import annotations

from typing import Final

from pocketfl.device.models import ModelInfo, ModelShelf, parse_parameters
from pocketfl.device.plans import OpenPlan, PlanCache
from pocketfl.errors import PlanError
from pocketfl.plan.storage import encode_parameters
from pocketfl.runtimes import FloatVector
from pocketfl.transport import DownloadWatch, Transport


class ModelSource:
    """One device's plans and models, each verified wherever it came from.

    Parameters
    ----------
    transport : Transport
        For what is not here yet.
    shelf : ModelShelf
        The latest model of each task, in the device's own file.
    plans : PlanCache
        Plans that are open in this process.
    keeps_models : bool
        Whether to use the shelf; a fleet's devices share the process's memory instead.
    trusted_keys : frozenset of bytes
        Raw Ed25519 public keys of the modellers.
    """

    def __init__(
        self,
        transport: Transport,
        *,
        shelf: ModelShelf,
        plans: PlanCache,
        keeps_models: bool,
        trusted_keys: frozenset[bytes],
    ) -> None:
        self._transport = transport
        self._shelf = shelf
        self._plans = plans
        self._keeps_models: Final = keeps_models
        self._trusted_keys = trusted_keys
        self._known_plans: set[str] = set()
        self._models: dict[str, ModelInfo] | None = None
        self._deployed: dict[str, ModelInfo] | None = None
        self._deployed_vector: tuple[str, FloatVector] | None = None
        self._parameters: tuple[str, FloatVector] | None = None

    def plan(self, digest: str, *, watch: DownloadWatch | None = None) -> OpenPlan:
        """Return a verified plan; a download asks the watch.

        Raises
        ------
        PlanError
            If it cannot be trusted or used, or is not the one asked for.
        TransportError
            If it cannot be downloaded.
        """
        opened = self._plans.find(digest, trusted_keys=self._trusted_keys)
        if opened is not None and digest in self._known_plans:
            return opened
        if opened is None and self._keeps_models:
            kept = self._shelf.plan(digest)
            if kept is not None:
                opened = self._plans.load(kept, trusted_keys=self._trusted_keys)
        if opened is None or not self._keeps_models:
            # With shared plans the download is still this device's own, and accounted as such.
            data = self._transport.plan(digest, watch=watch)
            if opened is None:
                opened = self._plans.load(data, trusted_keys=self._trusted_keys)
        if opened.plan.sha256 != digest:
            raise PlanError("the server sent another plan than the one it announced")
        self._known_plans.add(digest)
        return opened

    def kept_plan(self, digest: str) -> OpenPlan | None:
        """Return a plan that this device has, without asking the server; None if it has not.

        Raises
        ------
        PlanError
            If what it has cannot be trusted.
        """
        opened = self._plans.find(digest, trusted_keys=self._trusted_keys)
        if opened is not None or not self._keeps_models:
            return opened
        kept = self._shelf.plan(digest)
        return None if kept is None else self._plans.load(kept, trusted_keys=self._trusted_keys)

    def parameters(self, model: ModelInfo, opened: OpenPlan) -> FloatVector:
        """Return a model's parameters, and keep it as the latest of its task if that trains one.

        Raises
        ------
        PlanError
            If they are not the ones announced, or do not fit the plan.
        TransportError
            If they cannot be downloaded.
        """
        vector = self.find_parameters(model, opened)
        # What is only evaluated is not what the app predicts with.
        if opened.plan.manifest.kind != "training":
            return vector
        if self.models().get(model.task) == model and self._parameters is not None:
            return vector
        if self._keeps_models:
            self._shelf.put(model, plan=opened.plan.data, parameters=_encoded(vector, opened))
            self._parameters = (model.parameters_sha256, vector)
        self.models()[model.task] = model
        return vector

    def find_parameters(
        self, model: ModelInfo, opened: OpenPlan, *, watch: DownloadWatch | None = None
    ) -> FloatVector:
        """Return a model's parameters, and change nothing; raises as :meth:`parameters`."""
        digest = model.parameters_sha256
        spec = opened.plan.manifest.required_model
        for held in (self._parameters, self._deployed_vector):
            if held is None or held[0] != digest:
                continue
            vector = held[1]
            if len(vector) != spec.parameter_count:
                raise PlanError(
                    f"{len(vector)} parameters, not the {spec.parameter_count} of this plan"
                )
            return vector
        if self._keeps_models:
            kept = self._shelf.parameters(digest)
            if kept is not None:
                return parse_parameters(kept, digest=digest, model=spec)
        data = self._transport.parameters(digest, watch=watch)
        return parse_parameters(data, digest=digest, model=spec)

    def models(self) -> dict[str, ModelInfo]:
        """Return the latest model of each task that this device has."""
        if self._models is None:
            self._models = self._shelf.models() if self._keeps_models else {}
        return self._models

    def deploy(self, model: ModelInfo, opened: OpenPlan, vector: FloatVector) -> None:
        """Keep a model as the one that the app predicts with, whatever rounds bring."""
        if self._keeps_models:
            data = _encoded(vector, opened)
            self._shelf.put(model, plan=opened.plan.data, parameters=data, deployed=True)
        self.deployed()[model.task] = model
        self._deployed_vector = (model.parameters_sha256, vector)

    def deployed(self) -> dict[str, ModelInfo]:
        """Return the model of each task that a rollout put into use on this device."""
        if self._deployed is None:
            self._deployed = self._shelf.deployed() if self._keeps_models else {}
        return self._deployed

    def deployed_parameters(self, model: ModelInfo, opened: OpenPlan) -> FloatVector:
        """Return the parameters of a deployed model; raises as :meth:`parameters`."""
        vector = self.find_parameters(model, opened)
        self._deployed_vector = (model.parameters_sha256, vector)
        return vector


def _encoded(vector: FloatVector, opened: OpenPlan) -> bytes:
    return encode_parameters(vector, opened.plan.manifest.required_model.stored_as)
