"""The watch polls at a bounded rate, stops at the next batch, and cancels what takes too long."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pytest

from pocketfl.conditions import ConditionSpec, ConditionWatch, ScriptedSignals, Signals
from pocketfl.conditions import watch as watch_module
from pocketfl.plan.training import TrainingSpec
from pocketfl.training import train_locally

FULL, EMPTY = Signals(battery_level=0.9), Signals(battery_level=0.1)
SPEC = ConditionSpec(
    min_battery_level=0.3, min_free_storage_bytes=0, min_free_memory_bytes=0, max_thermal="shutdown"
)
LONG = 20.0
"""Seconds after which a test gives up on another thread."""


class Clock:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Switch:
    """Signals that a test changes, and how often they were read."""

    def __init__(self) -> None:
        self.signals = FULL
        self.reads = 0
        self.read_once = threading.Event()

    def read(self) -> Signals:
        self.reads += 1
        self.read_once.set()
        return self.signals


class Steps:
    """A runtime that counts its steps and lets a test act at each of them."""

    name = "steps"
    random_numbers = 0

    def __init__(self, at_step: Callable[[int], object]) -> None:
        self.count = 0
        self._at_step = at_step

    def start_training(self):
        pass

    def train_step(self, batch, *, learning_rate, clip_norm):
        self.count += 1
        self._at_step(self.count)
        return type("Result", (), {"loss": 0.0, "gradient_norm": 0.0})()


def train(runtime: Steps, watch: ConditionWatch, *, rows: int) -> bool:
    """Train with one row per batch; return whether it was completed."""
    arrays = {"x": np.zeros((rows, 1), np.float32), "target": np.zeros(rows, np.float32)}
    result = train_locally(
        runtime, arrays, TrainingSpec(), batch_size=1, seed=0, should_stop=watch.should_stop
    )
    return result.completed


def test_signals_are_read_at_most_once_per_interval() -> None:
    """Hundreds of batches in ten seconds read the sensors five times."""
    clock, switch = Clock(), Switch()
    watch = ConditionWatch(switch, SPEC, clock=clock, every_seconds=2.0)

    def pass_time(step: int) -> None:
        clock.now += 1 / 64  # A binary fraction adds up exactly.

    assert train(Steps(pass_time), watch, rows=641)
    assert switch.reads == 5


def test_a_breach_stops_at_the_next_batch() -> None:
    """Training ends before the batch that follows the look, with the reason kept."""
    clock = Clock()
    script = ScriptedSignals([(0, FULL), (1005, EMPTY)], clock=clock)
    watch = ConditionWatch(script, SPEC, clock=clock, every_seconds=0)

    def pass_time(step: int) -> None:
        clock.now += 1

    runtime = Steps(pass_time)
    assert not train(runtime, watch, rows=100)
    assert runtime.count == 5
    assert [str(reason) for reason in watch.reasons] == ["battery 10 % < 30 %"]


def test_a_stop_is_for_good() -> None:
    """A battery that recovers does not revive the session, and the first reason stays."""
    clock, switch = Clock(), Switch()
    watch = ConditionWatch(switch, SPEC, clock=clock, every_seconds=1)
    switch.signals = EMPTY
    clock.now += 1
    assert watch.should_stop()
    reasons = watch.reasons
    switch.signals = FULL
    clock.now += 100
    assert watch.should_stop()
    assert watch.reasons == reasons
    assert switch.reads == 1


def test_a_clock_that_goes_back_does_not_silence_the_watch() -> None:
    """After a jump of an hour backwards the sensors are read at once, not an hour later."""
    clock, switch = Clock(), Switch()
    watch = ConditionWatch(switch, SPEC, clock=clock, every_seconds=2)
    assert not watch.should_stop()
    switch.signals = EMPTY
    clock.now -= 3600
    assert watch.should_stop()


def test_a_provider_that_fails_stops_the_session() -> None:
    """Training does not go on blindly."""

    class Broken:
        def read(self) -> Signals:
            raise OSError("the sensor went away")

    clock = Clock()
    watch = ConditionWatch(Broken(), SPEC, clock=clock, every_seconds=1)
    clock.now += 1
    assert watch.should_stop()
    assert "went away" in str(watch.reasons[0])


def test_a_step_that_outlasts_the_grace_period_is_cancelled() -> None:
    """While the loop cannot ask, the watch's own thread sees the breach and cancels the step."""
    switch, cancelled = Switch(), threading.Event()
    watch = ConditionWatch(
        switch, SPEC, every_seconds=0.01, grace_seconds=0.03, on_hard_stop=cancelled.set
    )

    def long_step(step: int) -> None:
        switch.signals = EMPTY
        assert cancelled.wait(LONG)

    runtime = Steps(long_step)
    with watch:
        assert not train(runtime, watch, rows=10)
    assert runtime.count == 1
    assert watch.hard_stops >= 1
    assert watch.reasons[0].condition == "battery"


def test_a_loop_that_stops_by_itself_is_not_cancelled() -> None:
    """Once told to stop, the session has all the time it needs to save its state."""
    switch, calls = Switch(), []
    switch.signals = EMPTY
    watch = ConditionWatch(
        switch, SPEC, every_seconds=0.01, grace_seconds=0, on_hard_stop=lambda: calls.append(1)
    )
    # Told before the thread first looks.
    watch._looked_at -= 1
    assert watch.should_stop()
    with watch:
        (thread,) = [t for t in threading.enumerate() if t.name == "pocketfl conditions"]
        thread.join(LONG)
        assert not thread.is_alive()
    assert calls == []


def test_a_breach_that_passes_is_not_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    """The grace period starts anew when the device recovers; the session still ends at its batch."""
    calls, real_seconds, switch = [], Clock(), Switch()
    monkeypatch.setattr(
        watch_module, "time", SimpleNamespace(time=time.time, monotonic=real_seconds)
    )
    watch = ConditionWatch(
        switch, SPEC, every_seconds=0.01, grace_seconds=1000, on_hard_stop=lambda: calls.append(1)
    )

    def step_with_dips(step: int) -> None:
        for signals in (EMPTY, FULL, EMPTY, FULL):
            switch.signals = signals
            before = switch.reads
            # The second read tells that the watch is done with the first.
            while switch.reads < before + 3:
                switch.read_once.clear()
                assert switch.read_once.wait(LONG)
            if signals is FULL:
                real_seconds.now += 2000

    runtime = Steps(step_with_dips)
    with watch:
        assert not train(runtime, watch, rows=5)
    assert runtime.count == 1
    assert calls == []
    assert watch.hard_stops == 0


@pytest.mark.parametrize("answer", [False, ValueError("cannot")])
def test_a_runtime_that_cannot_be_cancelled_is_told_apart(answer: object) -> None:
    """False, as ExecuTorch says, counts as no hard stop; an error is kept and not repeated."""
    switch, asked = Switch(), threading.Event()
    switch.signals = EMPTY

    def refuse() -> object:
        asked.set()
        if isinstance(answer, Exception):
            raise answer
        return answer

    with ConditionWatch(
        switch, SPEC, every_seconds=0.01, grace_seconds=0, on_hard_stop=refuse
    ) as watch:
        assert asked.wait(LONG)
    assert watch.hard_stops == 0
    assert watch.hard_stop_error is (answer if isinstance(answer, Exception) else None)


def test_closing_ends_the_thread() -> None:
    """No thread outlives its session, and none is started without something to cancel."""
    switch = Switch()
    before = threading.active_count()
    with ConditionWatch(switch, SPEC, every_seconds=100, on_hard_stop=lambda: None) as watch:
        assert threading.active_count() == before + 1
    assert threading.active_count() == before
    watch.close()
    with ConditionWatch(switch, SPEC):
        assert threading.active_count() == before


@pytest.mark.parametrize(
    "settings",
    [
        {"every_seconds": -1},
        {"grace_seconds": -1},
        {"every_seconds": 0, "on_hard_stop": lambda: None},
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, object]) -> None:
    """A negative interval, or a thread that would spin."""
    with pytest.raises(ValueError, match="must be"):
        ConditionWatch(Switch(), SPEC, **settings)
