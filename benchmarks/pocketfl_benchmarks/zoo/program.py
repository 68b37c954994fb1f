"""The measured process: opens one plan in one runtime and trains, as an app would, with nothing else.

Run as a program with a JSON object on standard input; prints one JSON object. It imports no torch by
itself; ExecuTorch's Python bindings do, so that runtime's memory here is not a phone's.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, Final

from pocketfl.benchmark import run_device_benchmark
from pocketfl.benchmark.device import made_up_batch
from pocketfl.plan import Plan
from pocketfl.runtimes import open_runtime
from pocketfl_benchmarks.energy import find_energy_counter
from pocketfl_benchmarks.memory import peak_memory_mb

_STEPS: Final = 30
_ENERGY_SECONDS: Final = 2.0
"""A counter's own steps are far shorter than this."""


def measure(settings: dict[str, Any]) -> dict[str, Any]:
    """Open a plan, train as the app's Benchmark screen does, and see what the process took.

    Returns
    -------
    dict
        ``session_ms``, ``cpu_ms`` of a step and ``ratio_to_numpy`` of
        :func:`pocketfl.benchmark.run_device_benchmark`; ``peak_rss_mb``, ``bare_rss_mb`` (before the
        runtime was imported), ``joules`` of a step (null where nothing counts them) and
        ``energy_counter``.
    """
    bare = peak_memory_mb()
    plan = Plan.load(Path(settings["plan"]), trusted_keys=[settings["key"]])
    # Importing the library happens once per app and is not part of opening a plan.
    open_runtime(plan, settings["runtime"]).close()
    figures = run_device_benchmark(plan, runtime=settings["runtime"], repeats=_STEPS)
    peak = peak_memory_mb()
    joules, counter = _joules(plan, settings["runtime"], figures.step_ms_median / 1000)
    return {
        "session_ms": figures.session_ms,
        "cpu_ms": figures.step_cpu_ms,
        "ratio_to_numpy": figures.ratio,
        "peak_rss_mb": peak,
        "bare_rss_mb": bare,
        "joules": joules,
        "energy_counter": counter,
    }


def _joules(plan: Plan, runtime: str, step_seconds: float) -> tuple[float | None, str | None]:
    counter = find_energy_counter()
    if counter is None:
        return None, None
    steps = max(10, round(_ENERGY_SECONDS / max(step_seconds, 1e-6)))
    batch = made_up_batch(plan.manifest.required_model)
    opened = open_runtime(plan, runtime)

    def train() -> None:
        for _ in range(steps):
            opened.train_step(batch, learning_rate=1e-6, clip_norm=1.0)

    used = counter.used(train)
    opened.close()
    return (None if used is None else used / steps), counter.name


if __name__ == "__main__":
    print(json.dumps(measure(json.load(sys.stdin))))
