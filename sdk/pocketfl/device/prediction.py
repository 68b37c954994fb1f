"""Prediction with the latest model that this device has, without a network once it has one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from pocketfl.balancing.correction import correct_outputs
from pocketfl.device.deployment import Deployment
from pocketfl.device.models import ModelInfo
from pocketfl.device.sources import ModelSource
from pocketfl.errors import PlanError
from pocketfl.features.loading import load_inputs
from pocketfl.store import ExampleStore
from pocketfl.transport import Transport


class Prediction:
    """Runs a device's models.

    Parameters
    ----------
    store : ExampleStore
        For the join with server-side features.
    transport : Transport
        The line to the back end, asked only for a model that this device does not have.
    source : ModelSource
        Plans and models.
    deployment : Deployment
        Decides where a task has a rollout.
    runtime : str
        What predicts.
    clock : callable
        Unix time in seconds.
    """

    def __init__(
        self,
        store: ExampleStore,
        transport: Transport,
        *,
        source: ModelSource,
        deployment: Deployment,
        runtime: str,
        clock: Callable[[], float],
    ) -> None:
        self._store = store
        self._transport = transport
        self._source = source
        self._deployment = deployment
        self._runtime = runtime
        self._clock = clock

    def refresh(self, *, task: str | None) -> ModelInfo | None:
        """Look for what to predict with; see :meth:`pocketfl.device.Device.refresh_model`."""
        announced = self._transport.notices()
        tasks = self._deployment.tasks() if task is None else {task}
        if not tasks and announced.rollouts is not None:
            tasks = {announced.rollouts[0].task}
        ruled = self._deployment.hear(announced.rollouts, tasks=tasks)
        in_use = [self._deployment.apply(name) for name in ruled]
        if in_use:
            return in_use[0]
        for notice in announced.notices:
            if task not in (None, notice.task) or self._deployment.governs(notice.task):
                continue
            model = ModelInfo.of(notice)
            opened = self._source.plan(model.plan_sha256)
            if opened.plan.manifest.kind == "training":
                self._source.parameters(model, opened)
                return model
        return None

    def predict(
        self,
        examples: Mapping[str, object] | Sequence[Mapping[str, object]],
        *,
        task: str | None,
        times: Sequence[float] | None,
    ) -> dict[str, NDArray[np.generic]]:
        """Run the latest model; see :meth:`pocketfl.device.Device.predict`."""
        rows = [examples] if isinstance(examples, Mapping) else list(examples)
        moments = [self._clock()] * len(rows) if times is None else list(times)
        if len(moments) != len(rows):
            raise ValueError(f"{len(rows)} examples, but {len(moments)} times")
        model = self._choose_model(task)
        opened = self._source.plan(model.plan_sha256)
        if self._deployment.governs(model.task):
            parameters = self._source.deployed_parameters(model, opened)
        else:
            parameters = self._source.parameters(model, opened)
        inputs = load_inputs(self._store, opened.pipeline, rows, times=moments)
        with opened.runtime(self._runtime) as runtime:
            runtime.set_parameters(parameters)
            outputs = correct_outputs(runtime.predict(inputs), opened.balancing)
        if isinstance(examples, Mapping):
            return {name: values[0] for name, values in outputs.items()}
        return outputs

    def _choose_model(self, task: str | None) -> ModelInfo:
        known = self._source.models()
        if task is None:
            names = self._deployment.tasks()
            if len(names) > 1:
                raise ValueError(f"this device has models of {sorted(names)}: say which task")
            task = next(iter(names), None)
        if task is not None and self._deployment.governs(task):
            return self._deployment.model_in_use(task)
        if task is not None and task in known:
            return known[task]
        model = self.refresh(task=task)
        if model is None:
            raise PlanError("this device has no model yet, and no open round announces one")
        return model
