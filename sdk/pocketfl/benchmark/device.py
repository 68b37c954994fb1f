"""Measures a plan on this device: steps, memory, bytes and energy, against a reference and budgets."""

from __future__ import annotations

import gc
import math
import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np

from pocketfl import __version__
from pocketfl.benchmark.reference import reference_step
from pocketfl.benchmark.verdict import BudgetVerdict, judge_round
from pocketfl.budgets import (
    DEFAULT_BUDGETS,
    Amounts,
    Budgets,
    EnergyModel,
    Meter,
    agreed_budgets,
)
from pocketfl.plan.models import ModelSpec, TensorSpec
from pocketfl.reports import report_size
from pocketfl.runtimes import Batch, PlanContents, Runtime, open_runtime

MESSAGE_BYTES: Final = 8 * 2**10
"""What the small messages of a round come to at most, with their headers."""
MIN_REPEATS: Final = 3
_SHORTEST_BLOCK: Final = 1e-3
"""The reference is repeated until a block lasts this long in seconds: a single one may take less than
the clock can tell."""


@dataclass(frozen=True, kw_only=True)
class DeviceBenchmark:
    """What training a plan costs on this device.

    Attributes
    ----------
    plan_name, plan_version, plan_sha256 : str
        Which plan; the hash is empty for contents that are no signed plan.
    runtime : str
        What trained.
    platform, sdk : str
        The system, and the version of this package.
    repeats : int
        Steps that were timed.
    parameters, batch_size, steps_per_round : int
        Of the plan; a round is what its training settings say, on as many examples as they allow.
    step_ms_median, step_ms_p95, step_cpu_ms : float
        Milliseconds of one training step: wall time, and mean processor time of all threads.
    reference_ms : float
        Median milliseconds of :func:`~pocketfl.benchmark.reference.reference_step` in the same run.
    ratio : float
        Median step over reference.
    session_ms : float
        Milliseconds from opening the plan to the end of the first step, beyond a median step.
    peak_memory_bytes : int
        Resident memory beyond that before the plan was opened; 0 where it never rose.
    plan_bytes, download_bytes, upload_bytes : int
        The plan, once; parameters and messages per round; the sealed report and messages per round.
    round_cpu_seconds, round_wall_seconds, round_joules : float
        A round's steps and bytes; joules by :class:`~pocketfl.budgets.EnergyModel`, on Wi-Fi.
    verdict : tuple of BudgetVerdict
        A round against the budgets of one round.
    """

    plan_name: str
    plan_version: str
    plan_sha256: str
    runtime: str
    platform: str
    sdk: str
    repeats: int
    parameters: int
    batch_size: int
    steps_per_round: int
    step_ms_median: float
    step_ms_p95: float
    step_cpu_ms: float
    reference_ms: float
    ratio: float
    session_ms: float
    peak_memory_bytes: int
    plan_bytes: int
    download_bytes: int
    upload_bytes: int
    round_cpu_seconds: float
    round_wall_seconds: float
    round_joules: float
    verdict: tuple[BudgetVerdict, ...]

    @property
    def fits(self) -> bool:
        """Whether a round fits into every budget."""
        return all(item.fits for item in self.verdict)

    def to_json(self) -> dict[str, Any]:
        """Return it as what ``json.dumps`` takes."""
        values = asdict(self)
        values["verdict"] = [{**asdict(item), "fits": item.fits} for item in self.verdict]
        return {**values, "fits": self.fits}


def run_device_benchmark(
    plan: PlanContents,
    *,
    runtime: str = "onnxruntime",
    repeats: int = 50,
    progress: Callable[[int], object] | None = None,
    budgets: Budgets = DEFAULT_BUDGETS,
    energy: EnergyModel | None = None,
) -> DeviceBenchmark:
    """Measure training steps on made-up examples; nothing is read from a store and nothing is sent.

    Step and reference take turns, so that a slow moment of the device hits both.

    Parameters
    ----------
    plan : Plan
        A verified plan.
    runtime : {"onnxruntime", "executorch"}
        What trains.
    repeats : int
        Steps to time, at least 3.
    progress : callable, optional
        Told after every step how many are done.
    budgets : Budgets
        The app's; the plan's tighten them.
    energy : EnergyModel, optional
        For the joules.

    Returns
    -------
    DeviceBenchmark
        All figures of this run.

    Raises
    ------
    ValueError
        If ``repeats`` is less than 3.
    RuntimeUnavailableError
        If the runtime is not installed, or the plan has no parts for it.
    """
    if repeats < MIN_REPEATS:
        raise ValueError(f"repeats must be at least {MIN_REPEATS}, not {repeats}")
    manifest = plan.manifest
    model, training = manifest.required_model, manifest.required_training
    batch = made_up_batch(model)
    reference = reference_step(model)
    gc.collect()
    # Memory is looked at after every step, because a small plan is through in a moment.
    meter = Meter(memory_every_seconds=0.0)
    began = time.perf_counter()
    opened = open_runtime(plan, runtime)
    try:
        step = _step_of(opened, batch, training.max_gradient_norm)
        step()
        first = time.perf_counter() - began
        times = _time_in_turns(step, reference, repeats=repeats, meter=meter, progress=progress)
    finally:
        opened.close()
    peak = meter.read(thorough=True).peak_memory_bytes
    median = float(np.median(times.steps))
    reference_seconds = float(np.median(times.references))
    steps = training.epochs * math.ceil(training.max_examples / model.batch_size)
    download = model.parameter_bytes + MESSAGE_BYTES
    upload = report_size(manifest) + MESSAGE_BYTES
    cpu_seconds = steps * times.cpu_seconds
    joules = (energy if energy is not None else EnergyModel()).joules(
        cpu_seconds=cpu_seconds, bytes_up=upload, bytes_down_unmetered=download
    )
    needed = Amounts(
        cpu_seconds=cpu_seconds,
        wall_seconds=steps * median,
        bytes_up=upload,
        bytes_down_unmetered=download,
        joules=joules,
        contributions=1,
        peak_memory_bytes=peak,
        storage_bytes=len(getattr(plan, "data", b"")) + model.parameter_bytes,
    )
    agreed = agreed_budgets(app=budgets, plan=manifest.eligibility.budgets)
    return DeviceBenchmark(
        plan_name=manifest.name,
        plan_version=manifest.version,
        plan_sha256=getattr(plan, "sha256", ""),
        runtime=runtime,
        platform=f"{platform.system()} {platform.machine()}",
        sdk=__version__,
        repeats=repeats,
        parameters=model.parameter_count,
        batch_size=model.batch_size,
        steps_per_round=steps,
        step_ms_median=1000 * median,
        step_ms_p95=1000 * float(np.percentile(times.steps, 95)),
        step_cpu_ms=1000 * times.cpu_seconds,
        reference_ms=1000 * reference_seconds,
        ratio=median / reference_seconds,
        session_ms=1000 * max(0.0, first - median),
        peak_memory_bytes=peak,
        plan_bytes=len(getattr(plan, "data", b"")),
        download_bytes=download,
        upload_bytes=upload,
        round_cpu_seconds=cpu_seconds,
        round_wall_seconds=steps * median,
        round_joules=joules,
        verdict=judge_round(needed, agreed.per_round),
    )


@dataclass(frozen=True, kw_only=True)
class _Times:
    """Seconds of each step and reference, and processor seconds of a step."""

    steps: list[float]
    references: list[float]
    cpu_seconds: float


def _time_in_turns(
    step: Callable[[], object],
    reference: Callable[[], object],
    *,
    repeats: int,
    meter: Meter,
    progress: Callable[[int], object] | None,
) -> _Times:
    calls = 1
    while _seconds(reference, calls) < _SHORTEST_BLOCK and calls < 2**20:
        calls *= 2
    steps: list[float] = []
    references: list[float] = []
    cpu = 0.0
    for done in range(1, repeats + 1):
        cpu_began = time.process_time()
        steps.append(_seconds(step, 1))
        cpu += time.process_time() - cpu_began
        references.append(_seconds(reference, calls) / calls)
        meter.read()
        if progress is not None:
            progress(done)
    return _Times(steps=steps, references=references, cpu_seconds=cpu / repeats)


def _seconds(call: Callable[[], object], times: int) -> float:
    began = time.perf_counter()
    for _ in range(times):
        call()
    return time.perf_counter() - began


def _step_of(runtime: Runtime, batch: Batch, clip_norm: float) -> Callable[[], object]:
    # So small a rate that thousands of steps on the same batch do not wear the model out.
    return lambda: runtime.train_step(batch, learning_rate=1e-6, clip_norm=clip_norm)


def made_up_batch(model: ModelSpec) -> Batch:
    """Return a full batch of random floats; indices and classes are 0, which every vocabulary has."""
    chances = np.random.default_rng(0)

    def array(spec: TensorSpec) -> np.ndarray[tuple[int, ...], np.dtype[np.generic]]:
        shape = (model.batch_size, *spec.shape)
        if spec.dtype == "float32":
            return chances.random(shape, dtype=np.float32)
        # The only index or class that every vocabulary has.
        return np.zeros(shape, dtype=np.int64)

    return {**{spec.name: array(spec) for spec in model.inputs}, "target": array(model.target)}
