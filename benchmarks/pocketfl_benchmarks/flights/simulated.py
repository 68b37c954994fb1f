"""The demo's task and aircraft for ``pocketfl simulate`` and ``pocketfl tune``."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import torch

from pocketfl_benchmarks.flights.baselines import pool_flights
from pocketfl_benchmarks.flights.cache import cache_directory
from pocketfl_benchmarks.flights.data import ARCHIVE, read_flights
from pocketfl_benchmarks.flights.task import (
    BATCH_SIZE,
    DEVICE_WIDTH,
    FEATURES,
    OPTIMIZER,
    SERVER_WIDTH,
    TRAINING,
    LatenessModel,
    Schedule,
    lateness_loss,
)
from pocketfl_export.configuration import ExportConfiguration
from pocketfl_simulation import PackedData, SimulationTask
from pocketfl_simulation.tasks import make_task

_AIRCRAFT: Final = 3200
"""For which rounds and noise are planned; a simulation scales them to the fleet that it has."""


def model() -> tuple[Any, ...]:
    """Return (model, loss, example inputs, example target), as ``pocketfl export`` takes them."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        features = torch.rand((BATCH_SIZE, DEVICE_WIDTH + SERVER_WIDTH))
        target = (torch.rand(BATCH_SIZE) < 0.5).float()
        return LatenessModel(), lateness_loss, (features,), target


def task() -> SimulationTask:
    """Return the demo's private task, with its server optimizer."""
    schedule = Schedule(population=_AIRCRAFT)
    return make_task(
        ExportConfiguration(
            model=f"{__name__}:{model.__name__}",
            name="flights",
            version="1",
            key="",
            out="",
            aggregation=schedule.aggregation(),
            dp=schedule.privacy(),
            training=TRAINING,
            features=FEATURES,
        ),
        optimizer=OPTIMIZER,
    )


def data() -> PackedData:
    """Return the flights of every aircraft, fetched once by pinned hash; takes about ten seconds."""
    table = read_flights(ARCHIVE.locate(cache_directory()))
    aircraft = list(table.aircraft)
    flights = pool_flights(table, aircraft)
    counts = [table.spans[name].stop - table.spans[name].start for name in aircraft]
    arrays = {"features": flights.features, "target": flights.target}
    return PackedData(arrays, np.cumsum(counts), names=aircraft)
