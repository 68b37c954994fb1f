"""The yardstick: how well a model ranks the flights of aircraft that took no part in training.

The held-out aircraft are devices too. Each has its own store, fetches its server-side features, makes
its inputs with the plan's own feature pipeline, and scores them on the chosen mobile runtime. Only then
are the scores put together into one AUC, which a demo may do and a real fleet may not: there, the
same figure comes from private histograms, and never from scores that leave a device.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import dataclass
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
from pocketfl.transport import HttpTransport, Transport
from pocketfl_benchmarks.flights.stores import TABLE, fleet_vault, store_path
from pocketfl_benchmarks.flights.task import LatenessModel

Scores = NDArray[np.float32]


@dataclass(frozen=True)
class HeldOutFlights:
    """What the held-out aircraft make of their flights.

    Attributes
    ----------
    inputs : list of ndarray of float32, shape (n, width)
        The model's input, one array per device.
    targets : list of ndarray of float32, shape (n,)
        1 for a late arrival.
    """

    inputs: list[NDArray[np.float32]]
    targets: list[NDArray[np.float32]]


def prepare_held_out(
    folder: Path,
    aircraft: Iterable[str],
    *,
    plan: bytes,
    plan_key: str,
    url: str,
    enrolment_key: str,
) -> HeldOutFlights:
    """Let the held-out devices fetch their server-side features and make their inputs.

    Takes and returns what can be sent to another process and back.

    Parameters
    ----------
    folder : Path
        Their stores, which are written to.
    aircraft : iterable of str
        Tail numbers.
    plan : bytes
        Says what the inputs are.
    plan_key : str
        The modeller's public key.
    url, enrolment_key : str
        Where they fetch their server-side features.

    Returns
    -------
    HeldOutFlights
        In the order of ``aircraft``.
    """
    manifest = Plan.load(plan, trusted_keys=[plan_key]).manifest
    pipeline = FeaturePipeline(manifest.features, model=manifest.model)
    vault = fleet_vault(folder)
    made = HeldOutFlights([], [])
    with closing(HttpTransport(url)) as first:
        for name in aircraft:
            with ExampleStore(store_path(folder, name), vault=vault) as store:
                _fetch_features(store, first.for_another_device(), user=name, key=enrolment_key)
                limit = store.count(manifest.features.collection)
                arrays = load_arrays(store, pipeline, limit=limit, seed=0)
            made.inputs.append(arrays["features"].astype(np.float32, copy=False))
            made.targets.append(arrays["target"].astype(np.float32, copy=False))
    return made


class HeldOutDevices:
    """The aircraft kept for evaluation.

    Parameters
    ----------
    flights : HeldOutFlights
        What they have to score.
    plan : Plan
        Whose model they score with.

    Attributes
    ----------
    devices, flights : int
        How many there are.
    """

    def __init__(self, flights: HeldOutFlights, *, plan: Plan) -> None:
        self._plan = plan
        self._inputs = flights.inputs
        self._targets = np.concatenate(flights.targets)
        self._pooled = np.concatenate(self._inputs)
        self.devices = len(self._inputs)
        self.flights = len(self._targets)

    def auc(self, parameters: FloatVector, *, runtime: str) -> float:
        """Return the AUC of a federated model, scored device by device on a mobile runtime."""
        opened = open_runtime(self._plan, runtime)
        try:
            opened.set_parameters(parameters)
            output = self._plan.manifest.required_model.outputs[0].name
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
