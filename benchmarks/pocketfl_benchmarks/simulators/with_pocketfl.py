"""The work on PocketFL's simulation: prints the devices trained and the seconds as JSON."""

from __future__ import annotations

import json
import sys
import time
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pocketfl.plan import AggregationSpec, DifferentialPrivacySpec, TrainingSpec
from pocketfl_benchmarks.simulators.bound import operations, peak_operations_per_second
from pocketfl_benchmarks.simulators.models import loss_of, make_model
from pocketfl_benchmarks.simulators.work import MAX_EXAMPLES
from pocketfl_export.configuration import ExportConfiguration
from pocketfl_simulation import PackedData, Simulation, SimulationTask
from pocketfl_simulation.tasks import make_task

MLP = "mlp"
CNN = "cnn"


def _factory(kind: str) -> tuple[Any, ...]:
    rows = 16
    if kind == MLP:
        features, target = torch.rand(rows, 184), (torch.rand(rows) < 0.5).float()
    else:
        features, target = torch.rand(rows, 1, 28, 28), torch.randint(0, 10, (rows,))
    return make_model(kind), partial(loss_of, kind), {"features": features}, target


def mlp() -> tuple[Any, ...]:
    """Return the flights' model as the exporter takes it."""
    return _factory(MLP)


def cnn() -> tuple[Any, ...]:
    """Return the images' model as the exporter takes it."""
    return _factory(CNN)


def make(settings: dict[str, Any], devices: int) -> SimulationTask:
    """Return the task that these settings describe."""
    cohort, rounds = settings["cohort"], settings["rounds"] + 1
    return make_task(
        ExportConfiguration(
            model=f"pocketfl_benchmarks.simulators.with_pocketfl:{settings['kind']}",
            name=settings["kind"],
            version="1",
            key="",
            out="",
            training=TrainingSpec(
                max_examples=MAX_EXAMPLES,
                learning_rate=settings["learning_rate"],
                max_gradient_norm=settings["max_gradient_norm"],
            ),
            aggregation=AggregationSpec(
                clip_norm=settings["clip_norm"],
                population=devices,
                sampling_probability=cohort / devices,
                cohort_floor=1,
                max_rounds=rounds,
                max_participations=rounds,
            ),
            dp=DifferentialPrivacySpec(
                noise_multiplier=settings["noise_multiplier"], epsilon=1000.0, delta=1e-5
            ),
        )
    )


def _instead(cohort: NDArray[np.int64], tossed: NDArray[np.int64]) -> NDArray[np.int64]:
    """Let the work's own cohort report, whoever's coins said yes."""
    del tossed
    return cohort


def bound(
    settings: dict[str, Any], arrays: dict[str, NDArray[Any]], *, examples: float, threads: int
) -> dict[str, float]:
    """Return what the arithmetic alone would allow, for so many examples a device."""
    batch = (torch.from_numpy(arrays[name][: settings["batch"]]) for name in ("features", "target"))
    each = operations(settings["kind"], *batch) * examples
    peak = peak_operations_per_second(threads)
    return {
        "megaflop_per_device": each / 1e6,
        "gemm_gigaflops": peak / 1e9,
        "bound_devices_per_second": peak / each,
    }


def main(path: str) -> None:
    """Run one round, then time the others."""
    with np.load(path) as work:
        settings = json.loads(str(work["settings"]))
        arrays = {"features": work["features"], "target": work["target"]}
        data, cohorts = PackedData(arrays, work["ends"]), work["cohorts"]
    task = make(settings, len(data))
    with Simulation(task, data) as simulation:
        simulation.run_round(reporting=partial(_instead, cohorts[0]))
        began, processor_began = time.perf_counter(), time.process_time()
        for cohort in cohorts[1:]:
            simulation.run_round(reporting=partial(_instead, cohort))
        found: dict[str, Any] = {
            "devices": int(cohorts[1:].size),
            "seconds": time.perf_counter() - began,
            "processor_seconds": time.process_time() - processor_began,
            "engine": simulation.engine.name,
            "threads": simulation.settings.threads,
        }
    examples = len(arrays["target"]) / len(data)
    limits = bound(settings, arrays, examples=examples, threads=found["threads"])
    print(json.dumps(found | limits))


if __name__ == "__main__":
    main(sys.argv[1])
