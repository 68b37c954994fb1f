"""What the worker does: personal training, a federated round, the benchmark.

Each job opens the store and closes it again, so that nothing of the worker stands in the way when the
person erases their drawings.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Final

from pocketfl.benchmark import run_device_benchmark
from pocketfl.device import Device, RoundOutcome, SessionHooks
from pocketfl.store import ExampleStore
from pocketfl.training import TrainingState, Verdict
from pocketfl_app.bundle import load_bundle
from pocketfl_app.device.connection import open_device, trusted_keys
from pocketfl_app.device.drawings import HELD_OUT, Drawings
from pocketfl_app.device.models import GATE, judge_global, keep, model_in_use, open_model
from pocketfl_app.home import Home
from pocketfl_app.settings import load_settings
from pocketfl_app.worker.control import JobControl
from pocketfl_app.worker.messages import (
    Benchmarked,
    Cancelled,
    Event,
    Failed,
    Judged,
    Progress,
    RoundDone,
    Start,
    Trained,
)

REPORT_SECONDS: Final = 0.03
"""Least time between two words of progress: more often than the screen is drawn helps nobody."""
PERSONAL_RATE: Final = 0.05
"""Learning rate of personal training: half the plan's, as it goes over a few drawings many times."""

Tell = Callable[[Event], None]


def run_job(start: Start, home: Home, control: JobControl, tell: Tell) -> None:
    """Do a job and report its end; errors of the SDK are for the caller."""
    if start.job == "train":
        train(home, control, tell, epochs=start.amount)
    elif start.job == "round":
        take_part(home, control, tell, asked=start.asked)
    else:
        benchmark(home, control, tell, repeats=start.amount)


def train(home: Home, control: JobControl, tell: Tell, *, epochs: int) -> None:
    """Train the model in use on the person's drawings, and keep it if the gate lets it pass."""
    settings, bundle = load_settings(home.data), load_bundle(home.assets)
    with ExampleStore(home.store) as store:
        drawings = Drawings(store)
        if drawings.held_out < GATE.min_examples:
            tell(Failed(reason="too_few_held_out"))
            return
        keys = trusted_keys(settings, bundle.trust)
        with open_model(store, bundle, runtime=settings.runtime, keys=keys) as trainer:
            batch_size = trainer.plan.manifest.required_model.batch_size
            batches = -(-drawings.training // batch_size)
            before = trainer.evaluate(collection=HELD_OUT)
            progress = _ProgressTeller(tell, total=epochs * batches)
            began = time.perf_counter()
            result = trainer.train(
                epochs=epochs,
                learning_rate=PERSONAL_RATE,
                max_examples=drawings.training,
                should_stop=control.should_stop,
                after_batch=progress.after_batch,
            )
            seconds = time.perf_counter() - began
            progress.finish(result.training.losses)
            if not result.training.completed:
                # Parameters of an unfinished training are dropped with the trainer.
                tell(Trained(completed=False, steps=result.training.steps, seconds=seconds))
                return
            verdict = GATE.judge(before, trainer.evaluate(collection=HELD_OUT))
            if verdict.accepted:
                version = model_in_use(store).version
                keep(store, trainer, origin="personal", version=version)
            tell(
                Trained(
                    completed=True,
                    steps=result.training.steps,
                    seconds=seconds,
                    verdict=_judged(verdict),
                )
            )


def take_part(home: Home, control: JobControl, tell: Tell, *, asked: bool) -> None:
    """Take part in an open round, and put the global model that came with it before the gate."""
    settings, bundle = load_settings(home.data), load_bundle(home.assets)
    with ExampleStore(home.store) as store:
        Drawings(store)
        hooks = _RoundHooks(control, tell)
        with open_device(store, settings, bundle.trust, home, hooks=hooks) as device:
            outcome = _run(device, asked=asked)
            if outcome is None:
                tell(Cancelled())
                return
            models = device.models
        verdict = None
        info = max(models, key=lambda model: model.model_version, default=None)
        if info is not None:
            keys = trusted_keys(settings, bundle.trust)
            verdict = judge_global(store, bundle, info, runtime=settings.runtime, keys=keys)
        tell(
            RoundDone(
                status=outcome.status,
                code=outcome.code,
                reason=outcome.reason,
                round=outcome.round,
                model_version=None if info is None else info.model_version,
                steps=outcome.steps,
                bytes_up=outcome.bytes_up,
                bytes_down=outcome.bytes_down,
                resumable=outcome.resumable,
                verdict=None if verdict is None else _judged(verdict),
            )
        )


def benchmark(home: Home, control: JobControl, tell: Tell, *, repeats: int) -> None:
    """Measure the bundled plan on this device."""
    settings, bundle = load_settings(home.data), load_bundle(home.assets)
    last = time.monotonic()

    def progress(done: int) -> None:
        nonlocal last
        if control.should_stop():
            raise _StoppedError
        if done == repeats or time.monotonic() - last >= REPORT_SECONDS:
            last = time.monotonic()
            tell(Progress(done=done, total=repeats))

    try:
        found = run_device_benchmark(
            bundle.plan,
            runtime=settings.runtime,
            repeats=repeats,
            progress=progress,
            budgets=settings.budgets(demo=home.demo),
        )
    except _StoppedError:
        tell(Cancelled())
        return
    tell(Benchmarked(figures=json.dumps(found.to_json())))


class _StoppedError(Exception):
    """The benchmark was told to end."""


class _RoundHooks(SessionHooks):
    """Lets the person hold or end a round, and tells of its batches."""

    def __init__(self, control: JobControl, tell: Tell) -> None:
        self._control = control
        self._progress = _ProgressTeller(tell, total=0)

    def should_stop(self) -> bool:
        return self._control.should_stop()

    def trained_batch(self, state: Callable[[], TrainingState]) -> None:
        self._progress.after_batch(state)


class _ProgressTeller:
    """Tells of losses, though not of every single one at once."""

    def __init__(self, tell: Tell, *, total: int) -> None:
        self._tell = tell
        self._total = total
        self._told = 0
        self._at = 0.0

    def after_batch(self, state: Callable[[], TrainingState]) -> None:
        if time.monotonic() - self._at >= REPORT_SECONDS:
            self.finish(state().losses)

    def finish(self, losses: tuple[float, ...]) -> None:
        if len(losses) > self._told:
            total = max(self._total, len(losses))
            self._tell(Progress(done=len(losses), total=total, losses=losses[self._told :]))
            self._told = len(losses)
        self._at = time.monotonic()


def _run(device: Device, *, asked: bool) -> RoundOutcome | None:
    if asked:
        return device.run_once()
    outcomes = device.run_due()
    return outcomes[-1] if outcomes else None


def _judged(verdict: Verdict) -> Judged:
    return Judged(
        accepted=verdict.accepted,
        examples=verdict.examples,
        correct_before=verdict.correct_before or 0,
        correct_after=verdict.correct_after or 0,
        reason=verdict.reason,
    )
