"""What a server could train if it held the flights itself: the two models that the demo compares with.

Both go through the same feature pipeline as the devices, have the same architecture, and choose when to
stop on training aircraft set apart for it; the held-out aircraft are never looked at.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from pocketfl.features import FeaturePipeline
from pocketfl.features.transforms import FeatureSpec
from pocketfl.store import Examples
from pocketfl_benchmarks.flights.data import DEVICE_FIELDS, SERVER_FIELDS, FlightTable
from pocketfl_benchmarks.flights.task import (
    DEVICE_WIDTH,
    FEATURES,
    SERVER_WIDTH,
    LatenessModel,
    lateness_loss,
)

VALIDATION_SHARE: Final = 0.1
MAX_EPOCHS: Final = 10
PATIENCE: Final = 2
"""Epochs without a better validation AUC before training stops."""
BATCH: Final = 256
LEARNING_RATE: Final = 2e-3

_ROWS_AT_ONCE: Final = 32_768


@dataclass(frozen=True)
class PooledFlights:
    """Flights of many aircraft in one place, which no server of a federated run ever has.

    Attributes
    ----------
    features : ndarray of float32, shape (n, width)
        The model's input.
    target : ndarray of float32, shape (n,)
        1 for a late arrival.
    for_validation : ndarray of bool, shape (n,)
        Rows of the aircraft that decide when to stop.
    """

    features: NDArray[np.float32]
    target: NDArray[np.float32]
    for_validation: NDArray[np.bool_]


@dataclass(frozen=True)
class CentralModel:
    """A trained baseline.

    Attributes
    ----------
    server_only : bool
        Whether it leaves the aircraft's own features out.
    weights : dict of str to ndarray
        Of a :class:`LatenessModel`.
    validation_auc : float
        On the training aircraft set apart.
    epochs : int
        Passes until that was best.
    flights : int
        How many it could learn from, validation included.
    """

    server_only: bool
    weights: dict[str, NDArray[np.float32]]
    validation_auc: float
    epochs: int
    flights: int

    def score(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return logits, shape (n,), for features of shape (n, width)."""
        inputs = torch.from_numpy(features)[:, _columns(server_only=self.server_only)]
        model = LatenessModel(inputs.shape[1])
        model.load_state_dict({k: torch.from_numpy(v) for k, v in self.weights.items()})
        with torch.no_grad():
            logits: NDArray[np.float32] = model(inputs).numpy()
        return logits


def _columns(*, server_only: bool) -> slice:
    return slice(DEVICE_WIDTH if server_only else 0, DEVICE_WIDTH + SERVER_WIDTH)


def train_baselines(pooled: PooledFlights, *, seed: int) -> tuple[CentralModel, CentralModel]:
    """Return the server-only and the server-trained model of the training aircraft's flights."""
    server_only = train_central(pooled, server_only=True, seed=seed)
    return server_only, train_central(pooled, server_only=False, seed=seed)


def is_for_validation(aircraft: str) -> bool:
    """Return whether a training aircraft decides when the baselines stop; a function of its name."""
    digest = sha256(f"validation {aircraft}".encode()).digest()
    return int.from_bytes(digest[:8], "big") < VALIDATION_SHARE * 2**64


def pool_flights(
    table: FlightTable, aircraft: Iterable[str], *, spec: FeatureSpec = FEATURES
) -> PooledFlights:
    """Run the flights of some aircraft through the devices' own feature pipeline."""
    spans = table.spans
    chosen = list(aircraft)
    rows = np.concatenate([np.arange(spans[name].start, spans[name].stop) for name in chosen])
    flags = np.concatenate(
        [np.full(spans[name].stop - spans[name].start, is_for_validation(name)) for name in chosen]
    )
    part = FlightTable(table.rows.iloc[rows], table.archive_sha256)
    device, server = part.records(DEVICE_FIELDS), part.records(SERVER_FIELDS)
    starts = part.rows["hour_start"].tolist()
    times = part.rows["time"].to_numpy(np.float64)
    pipeline = FeaturePipeline(spec)
    features, targets = [], []
    for start in range(0, len(rows), _ROWS_AT_ONCE):
        span = slice(start, start + _ROWS_AT_ONCE)
        examples = device[span]
        # Legs count from 0 in every aircraft; in one pool their keys must differ.
        keys = [str(number) for number in range(start, start + len(examples))]
        columns: dict[str, list[Any]] = {
            name: [row[name] for row in examples] for name in DEVICE_FIELDS
        }
        columns["leg"] = list(keys)
        known = {
            key: [(float(valid_from), values)]
            for key, valid_from, values in zip(keys, starts[span], server[span], strict=True)
        }
        ids = np.arange(len(examples), dtype=np.int64)
        arrays = pipeline.arrays(Examples(ids, times[span], columns), known)
        features.append(arrays["features"])
        targets.append(arrays["target"])
    return PooledFlights(
        features=np.concatenate(features).astype(np.float32, copy=False),
        target=np.concatenate(targets).astype(np.float32, copy=False),
        for_validation=flags,
    )


def train_central(
    flights: PooledFlights, *, server_only: bool, seed: int, epochs: int = MAX_EPOCHS
) -> CentralModel:
    """Train one baseline with Adam, a falling learning rate and early stopping.

    Parameters
    ----------
    flights : PooledFlights
        Of the training aircraft.
    server_only : bool
        Whether to leave the aircraft's own features out.
    seed : int
        Of initial weights and the order of batches.
    epochs : int
        Most passes.

    Returns
    -------
    CentralModel
        The weights of the epoch with the best validation AUC.
    """
    everything = torch.from_numpy(flights.features)[:, _columns(server_only=server_only)]
    target = torch.from_numpy(flights.target)
    validation = torch.from_numpy(flights.for_validation)
    training_rows = torch.nonzero(~validation)[:, 0]
    validation_rows = torch.nonzero(validation)[:, 0]
    judged, judged_target = everything[validation_rows], flights.target[flights.for_validation]
    torch.manual_seed(seed)
    model = LatenessModel(everything.shape[1])
    optimizer = torch.optim.Adam(model.parameters(), LEARNING_RATE)
    total = epochs * -(-len(training_rows) // BATCH)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.02, total)
    best_auc, best_epoch, best = -1.0, 0, model.state_dict()
    for epoch in range(1, epochs + 1):
        model.train()
        for batch in torch.split(training_rows[torch.randperm(len(training_rows))], BATCH):
            optimizer.zero_grad()
            torch.autograd.backward(lateness_loss(model(everything[batch]), target[batch]))
            optimizer.step()
            schedule.step()
        model.eval()
        with torch.no_grad():
            auc = float(roc_auc_score(judged_target, model(judged).numpy()))
        if auc > best_auc:
            best_auc, best_epoch, best = auc, epoch, copy.deepcopy(model.state_dict())
        elif epoch - best_epoch >= PATIENCE:
            break
    return CentralModel(
        server_only=server_only,
        weights={name: value.numpy() for name, value in best.items()},
        validation_auc=best_auc,
        epochs=best_epoch,
        flights=len(flights.target),
    )
