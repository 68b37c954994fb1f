"""Exports the zoo on all cores, then measures one model after the other on one."""

from __future__ import annotations

import gc
import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pocketfl.benchmark.device import made_up_batch
from pocketfl.errors import PocketFLError
from pocketfl.plan import Plan
from pocketfl.runtimes import open_runtime
from pocketfl_benchmarks.machine import describe_machine
from pocketfl_benchmarks.step import one_thread, runtime_step, torch_step
from pocketfl_benchmarks.zoo.models import ZOO, RealTask, trained_model
from pocketfl_benchmarks.zoo.preparation import Artefacts, Prepared, prepare
from pocketfl_benchmarks.zoo.quality import fetch_all
from pocketfl_benchmarks.zoo.round_cost import round_cost

RUNTIMES: Final = ("onnxruntime", "executorch")
BATCH_SIZES: Final = (16, 64)
_PROGRAM: Final = "pocketfl_benchmarks.zoo.program"
_IN_A_ROW: Final = 4
"""Calls of one competitor before it is the next one's turn: a phone trains in a row, too."""

Progress = Callable[[str], None]


class MeasurementError(PocketFLError):
    """A measured process did not do what was measured."""


@dataclass(frozen=True, kw_only=True)
class ZooSettings:
    """What to measure and how long.

    Attributes
    ----------
    models : tuple of str
        Names in :data:`~pocketfl_benchmarks.zoo.models.ZOO`.
    runtimes : tuple of str
        Which.
    batch_sizes : tuple of int
        The first is the one that the main figures are of.
    repeats : int
        Turns of each competitor, of four calls each.
    workers : int
        Processes that export.
    with_quality : bool
        Whether models that have real data learn from them, too; these are fetched at first.
    """

    models: tuple[str, ...] = tuple(ZOO)
    runtimes: tuple[str, ...] = RUNTIMES
    batch_sizes: tuple[int, ...] = BATCH_SIZES
    repeats: int = 25
    workers: int = max(1, min(4, os.cpu_count() or 1))
    with_quality: bool = True


def measure_zoo(settings: ZooSettings, *, progress: Progress) -> dict[str, Any]:
    """Measure the zoo.

    Returns
    -------
    dict
        ``{"machine", "settings", "wall_seconds", "models"}``; what is under a model and a runtime is
        described in ``docs/zoo.md``.
    """
    began = time.perf_counter()
    machine = describe_machine()
    missing: dict[str, str] = {}
    if settings.with_quality:
        progress("fetch data")
        missing = fetch_all({task.data for task in map(_real_task, settings.models) if task})
    prepared = _prepare_all(settings, missing, progress)
    models: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder, one_thread():
        for name in settings.models:
            progress(f"measure {name}")
            models[name] = _measure_model(
                name,
                [prepared[name, rows] for rows in settings.batch_sizes],
                settings,
                Path(folder),
            )
            task = _real_task(name)
            if task is not None and task.data in missing:
                models[name]["quality_missing"] = missing[task.data]
    return {
        "machine": machine,
        "settings": {"batch_sizes": settings.batch_sizes, "repeats": settings.repeats},
        "wall_seconds": time.perf_counter() - began,
        "models": models,
    }


def _real_task(model: str) -> RealTask | None:
    return ZOO[model].real


def _prepare_all(
    settings: ZooSettings, missing: Mapping[str, str], progress: Progress
) -> dict[tuple[str, int], Prepared]:
    main = settings.batch_sizes[0]
    tasks = [(name, rows) for rows in settings.batch_sizes for name in settings.models]
    result: dict[tuple[str, int], Prepared] = {}
    # A fresh process each: a fork of one that has torch's threads may hang.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(max_workers=settings.workers, mp_context=context) as pool:
        waiting = {}
        for name, rows in tasks:
            task = _real_task(name)
            learns = settings.with_quality and task is not None and task.data not in missing
            future = pool.submit(
                prepare,
                name,
                rows,
                settings.runtimes,
                with_int8=rows == main,
                with_quality=learns and rows == main,
            )
            waiting[future] = name, rows
        for future in as_completed(waiting):
            name, rows = waiting[future]
            result[name, rows] = future.result()
            progress(f"exported {name}, batch {rows}")
    return result


def _measure_model(
    name: str, prepared: Sequence[Prepared], settings: ZooSettings, folder: Path
) -> dict[str, Any]:
    main = prepared[0]
    timed = [_time_in_turns(each, settings) for each in prepared]
    figures: dict[str, Any] = {
        "about": ZOO[name].about,
        "parameters": main.parameters,
        "batch_size": main.batch_size,
        "torch_ms": statistics.median(timed[0]["torch"]),
    }
    quality = main.quality
    if quality is not None:
        figures["quality_of"] = quality.about
        figures["quality_metric"] = quality.metric
        figures["quality_steps"] = quality.steps
        figures["torch_quality"] = quality.reached["torch"]
    for runtime in settings.runtimes:
        if runtime in main.refused:
            figures[runtime] = {"refused": main.refused[runtime]}
            continue
        made = main.artefacts[runtime]
        times = {
            each.batch_size: _latency(results, runtime, each.batch_size)
            for each, results in zip(prepared, timed, strict=True)
            if runtime in results
        }
        own = times[main.batch_size]
        process = _run(runtime, made, folder)
        cost = round_cost(
            step_seconds=own["ms"] / 1000,
            cpu_seconds=process["cpu_ms"] / 1000,
            batch_size=main.batch_size,
            parameters=main.parameters,
            plan_bytes=len(made.plan),
        )
        figures[runtime] = {
            **own,
            "peak_rss_mb": process["peak_rss_mb"],
            "peak_rss_mb_over_python": process["peak_rss_mb"] - process["bare_rss_mb"],
            "session_ms": process["session_ms"],
            "cpu_ms": process["cpu_ms"],
            "ratio_to_numpy": process["ratio_to_numpy"],
            "joules": process["joules"],
            "energy_counter": process["energy_counter"],
            "step_bytes": made.step_bytes,
            "inference_bytes": made.inference_bytes,
            "inference_int8_bytes": made.inference_int8_bytes,
            "int8_agreement": made.int8_agreement,
            "int8_ms": made.int8_milliseconds,
            "float32_ms": made.float32_milliseconds,
            "plan_bytes": len(made.plan),
            "export_seconds": made.export_seconds,
            "export_cpu_seconds": made.export_cpu_seconds,
            "round": cost.to_json(),
            "quality": None if quality is None else quality.reached[runtime],
            "by_batch_size": {str(rows): values for rows, values in times.items()},
            "notes": list(made.notes),
        }
    return figures


def _time_in_turns(prepared: Prepared, settings: ZooSettings) -> dict[str, list[float]]:
    """Return milliseconds of single steps, of torch and every runtime in the same run."""
    import torch

    entry = ZOO[prepared.model]
    inputs, target = entry.draw(prepared.batch_size, torch.Generator().manual_seed(3))
    steps = {"torch": torch_step(trained_model(entry, steps=0), entry.loss, inputs, target)}
    opened = []
    for name, made in prepared.artefacts.items():
        plan = Plan.load(made.plan, trusted_keys=[made.key])
        runtime = open_runtime(plan, name)
        opened.append(runtime)
        steps[name] = runtime_step(runtime, made_up_batch(plan.manifest.required_model))
    times: dict[str, list[float]] = {name: [] for name in steps}
    for call in steps.values():
        call()
        call()
    gc.collect()
    gc.disable()
    try:
        for _ in range(settings.repeats):
            for name, call in steps.items():
                for _ in range(_IN_A_ROW):
                    began = time.perf_counter()
                    call()
                    times[name].append(1000 * (time.perf_counter() - began))
    finally:
        gc.enable()
        for runtime in opened:
            runtime.close()
    return times


def _latency(times: dict[str, list[float]], runtime: str, rows: int) -> dict[str, float]:
    median, torch = statistics.median(times[runtime]), statistics.median(times["torch"])
    return {
        "ms": median,
        "p95_ms": statistics.quantiles(times[runtime], n=20)[-1],
        "min_ms": min(times[runtime]),
        "ratio": median / torch,
        "torch_ms": torch,
        "examples_per_second": 1000 * rows / median,
    }


def _run(runtime: str, made: Artefacts, folder: Path) -> dict[str, Any]:
    plan = folder / "plan.pocketfl"
    plan.write_bytes(made.plan)
    settings = {"plan": str(plan), "key": made.key, "runtime": runtime}
    done = subprocess.run(  # noqa: S603 - our own module
        [sys.executable, "-m", _PROGRAM],
        input=json.dumps(settings),
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    if done.returncode != 0:
        said = done.stderr.strip().splitlines()
        raise MeasurementError(
            f"the measured process failed on {runtime}: {said[-1] if said else 'no reason given'}"
        )
    figures: dict[str, Any] = json.loads(done.stdout)
    return figures
