"""The yardstick: how well a model ranks the flights of aircraft that took no part in training.

The held-out aircraft are devices too. Each has its own store, fetches its server-side features, makes
its inputs with the plan's own feature pipeline, and scores them on the chosen mobile runtime. Only then
are the scores put together into one AUC, which a demo may do and a real fleet may not: there, the
same figure comes from private histograms, and never from scores that leave a device.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score
from torch.nn.utils import vector_to_parameters

from pocketfl import __version__
from pocketfl.features import FeaturePipeline
from pocketfl.features.loading import load_arrays
from pocketfl.plan import Plan
from pocketfl.protocol import EnrolmentRequest
from pocketfl.runtimes import FloatVector, open_runtime
from pocketfl.store import ExampleStore
from pocketfl.transport import Transport
from pocketfl_benchmarks.flights.fleet import Line
from pocketfl_benchmarks.flights.stores import TABLE, fleet_vault, store_path
from pocketfl_benchmarks.flights.task import LatenessModel

Scores = NDArray[np.float32]


class HeldOutDevices:
    """The aircraft kept for evaluation, with their inputs made once.

    Parameters
    ----------
    folder : Path
        Their stores, which are written to.
    aircraft : iterable of str
        Tail numbers.
    plan : Plan
        Says what the inputs are.
    line : Line
        Where they fetch their server-side features.
    progress : callable, optional
        Told how many more devices are ready.

    Attributes
    ----------
    devices, flights : int
        How many there are.
    """

    def __init__(
        self,
        folder: Path,
        aircraft: Iterable[str],
        *,
        plan: Plan,
        line: Line,
        progress: Callable[[int], None] | None = None,
    ) -> None:
        self._plan = plan
        self._inputs: list[NDArray[np.float32]] = []
        targets: list[NDArray[np.float32]] = []
        pipeline = FeaturePipeline(plan.manifest.features, model=plan.manifest.model)
        vault = fleet_vault(folder)
        for name in aircraft:
            with ExampleStore(store_path(folder, name), vault=vault) as store:
                _fetch_features(store, line.connect(), user=name, key=line.enrolment_key)
                limit = store.count(plan.manifest.features.collection)
                arrays = load_arrays(store, pipeline, limit=limit, seed=0)
            self._inputs.append(arrays["features"].astype(np.float32, copy=False))
            targets.append(arrays["target"].astype(np.float32, copy=False))
            if progress is not None:
                progress(1)
        self._targets = np.concatenate(targets)
        self._pooled = np.concatenate(self._inputs)
        self.devices = len(self._inputs)
        self.flights = len(self._targets)

    def auc(self, parameters: FloatVector, *, runtime: str) -> float:
        """Return the AUC of a federated model, scored device by device on a mobile runtime."""
        opened = open_runtime(self._plan, runtime)
        try:
            opened.set_parameters(parameters)
            output = self._plan.manifest.model.outputs[0].name
            scores = [opened.predict({"features": inputs})[output] for inputs in self._inputs]
        finally:
            opened.close()
        return float(roc_auc_score(self._targets, np.concatenate(scores)))

    def auc_of(self, score: Callable[[NDArray[np.float32]], Scores]) -> float:
        """Return the AUC of any function from inputs to scores, such as a centralised model."""
        return float(roc_auc_score(self._targets, score(self._pooled)))

    def curve(self, versions: Iterable[FloatVector]) -> list[float]:
        """Return the AUC of every version of a model, scored by torch: the plot needs many of them.

        The runtimes agree with torch to within the exporter's parity gate, so the last point differs
        from :meth:`auc` by rounding at most.
        """
        model = LatenessModel()
        model.requires_grad_(False)
        inputs = torch.from_numpy(self._pooled)
        aucs = []
        for version in versions:
            vector_to_parameters(torch.from_numpy(version), model.parameters())
            aucs.append(float(roc_auc_score(self._targets, model(inputs).numpy())))
        return aucs


def _fetch_features(store: ExampleStore, transport: Transport, *, user: str, key: str) -> None:
    token = transport.enrol(key, EnrolmentRequest(user=user, sdk=__version__)).token
    cursor: str | None = None
    while True:
        page = transport.features(token, TABLE, cursor)
        store.put_server_features(TABLE, page.rows, cursor=page.next_cursor)
        if page.next_cursor is None:
            return
        cursor = page.next_cursor
