"""Starts the measured processes one after the other and puts their figures together."""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from pocketfl.errors import PocketFLError
from pocketfl.runtimes.executorch_build import find_library
from pocketfl.store import Collection, ExampleStore, Field
from pocketfl_benchmarks.device.site import CLASSES, EXAMPLES, INPUTS, TASK, Site, open_site

_PROGRAM: Final = "pocketfl_benchmarks.device.program"
_ROUND_SECONDS: Final = 3600.0
WARM_UP_ROUNDS: Final = 2
"""Rounds before the measured ones: the first downloads the plan, and caches fill."""


class MeasurementError(PocketFLError):
    """A measured process did not do what was measured."""


@dataclass(frozen=True, kw_only=True)
class DeviceSettings:
    """How much to measure.

    Attributes
    ----------
    rounds : int
        Measured rounds.
    starts : int
        Processes started for the median of import and cold start.
    rows : int
        Examples in the store.
    runtime : {"onnxruntime", "executorch"}
        What trains; ExecuTorch without torch, which no device has.
    """

    rounds: int = 20
    starts: int = 5
    rows: int = 1_000_000
    runtime: str = "onnxruntime"

    def __post_init__(self) -> None:
        if self.runtime == "executorch" and find_library() is None:
            raise MeasurementError(
                "ExecuTorch is measured without torch only: pocketfl runtimes build-executorch"
            )


def measure_device(
    folder: Path, settings: DeviceSettings, *, progress: Callable[[str], None]
) -> dict[str, Any]:
    """Measure import, cold start, rounds, memory and store.

    Parameters
    ----------
    folder : Path
        For stores, plan and databases; empty.
    settings : DeviceSettings
        How much.
    progress : callable
        Told what is measured next.

    Returns
    -------
    dict
        The figures of ``pocketfl bench device --json``: seconds, milliseconds, MB of 10^6 bytes.

    Raises
    ------
    MeasurementError
        If a measured process failed; says what it said.
    """
    progress("import")
    imports = [_run("import", runtime=settings.runtime) for _ in range(settings.starts)]
    bare = _run("bare")
    progress("export a plan, start a server")
    rounds_of_task = settings.rounds + WARM_UP_ROUNDS
    with open_site(folder, rounds=rounds_of_task, runtime=settings.runtime) as site:
        store = folder / "device.sqlite"
        _fill(store, site)
        progress("cold start")
        cold_starts = [
            _run(
                "cold_start",
                plan=str(site.plan_file),
                plan_key=site.plan_key,
                store=str(store),
                runtime=settings.runtime,
                started_at=time.time(),
            )
            for _ in range(settings.starts)
        ]
        progress("rounds")
        rounds, peak = _measure_rounds(site, store, settings)
        parameters = site.plan.manifest.required_model.parameter_count
    progress(f"store of {settings.rows} examples")
    stored = _run("store", store=str(folder / "events.sqlite"), rows=settings.rows)
    return {
        "runtime": settings.runtime,
        "import_seconds": _median(imports, "import_seconds"),
        "numpy_import_seconds": _median(imports, "numpy_import_seconds"),
        "peak_rss_mb_over_numpy": peak - bare["peak_rss_mb"],
        "peak_rss_mb": peak,
        "cold_start_seconds": _median(cold_starts, "cold_start_seconds"),
        "round_overhead_ms": 1000 * _median(rounds, "overhead_seconds"),
        "round_step_ms": 1000 * _median(rounds, "step_seconds"),
        "phase_ms": {
            name: 1000 * statistics.median(made["phases"][name] for made in rounds)
            for name in rounds[0]["phases"]
        },
        "parameters": parameters,
        "rounds": settings.rounds,
        "store": stored,
    }


def _median(figures: list[dict[str, Any]], name: str) -> float:
    return float(statistics.median(figure[name] for figure in figures))


def _fill(path: Path, site: Site) -> None:
    """Give the device examples; what they say does not matter, only how many numbers they have."""
    features = site.plan.manifest.features
    fields = {
        field.name: Field(field.type, optional=field.optional, shape=field.shape)
        for field in features.fields
    }
    (name,) = (tensor.name for tensor in site.plan.manifest.required_model.inputs)
    (target,) = set(fields) - {name}
    generator = np.random.default_rng(0)
    with ExampleStore(path) as store:
        store.create_collection(Collection(features.collection, fields))
        store.append(
            features.collection,
            [
                {
                    name: generator.random(INPUTS, np.float32),
                    target: int(generator.integers(CLASSES)),
                }
                for _ in range(EXAMPLES)
            ],
        )


def _measure_rounds(
    site: Site, store: Path, settings: DeviceSettings
) -> tuple[list[dict[str, Any]], float]:
    """Return the measured rounds, and the peak memory of the process that took part in them."""
    operator = site.deployment.operator
    made: list[dict[str, Any]] = []
    with _started(
        "rounds",
        store=str(store),
        runtime=settings.runtime,
        url=site.deployment.url,
        plan_key=site.plan_key,
        aggregator_key=site.aggregator_key,
        enrolment_key=site.deployment.enrolment_key,
    ) as process:
        _listen(process)
        for _ in range(settings.rounds + WARM_UP_ROUNDS):
            notice = operator.open_round(TASK, seconds=_ROUND_SECONDS)
            _tell(process, "go")
            made.append(_listen(process))
            operator.close_round(TASK, notice.round)
        _tell(process, "")
        peak = float(_listen(process)["peak_rss_mb"])
    return made[WARM_UP_ROUNDS:], peak


def _run(measure: str, **settings: object) -> dict[str, Any]:
    with _started(measure, **settings) as process:
        return _listen(process)


@contextlib.contextmanager
def _started(measure: str, **settings: object) -> Iterator[subprocess.Popen[str]]:
    # An app that is installed has its modules compiled; to compile them takes time and memory.
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    with subprocess.Popen(  # noqa: S603 - our own module
        [sys.executable, "-m", _PROGRAM],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**environment, "OMP_NUM_THREADS": "1"},
    ) as process:
        _tell(process, json.dumps({"measure": measure, **settings}))
        try:
            yield process
        except BaseException:
            process.kill()
            raise


def _tell(process: subprocess.Popen[str], line: str) -> None:
    if process.stdin is None:
        raise MeasurementError("the measured process has no standard input")
    process.stdin.write(line + "\n")
    process.stdin.flush()


def _listen(process: subprocess.Popen[str]) -> dict[str, Any]:
    line = process.stdout.readline() if process.stdout is not None else ""
    if not line:
        said = process.stderr.read().strip() if process.stderr is not None else ""
        last = said.splitlines()[-1] if said else "no reason given"
        raise MeasurementError(f"the measured process failed: {last}")
    figures: dict[str, Any] = json.loads(line)
    return figures
