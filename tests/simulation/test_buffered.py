"""Asynchronous releases: reports of one model are a round's, and those of older ones count less."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable

import numpy as np
import pytest

from pocketfl.plan import AggregationSpec
from pocketfl.plan.asynchronous import AsynchronousSpec, staleness_weight
from pocketfl_simulation import PackedData, Simulation, SimulationSettings, SimulationTask
from pocketfl_simulation.buffered import BufferedSimulation
from pocketfl_simulation.errors import SimulationError
from pocketfl_simulation.fleet import FleetBehaviour, FleetClock

SEEDED = SimulationSettings(seed=1, engine="onnxruntime", threads=1)
BUSY = FleetBehaviour(
    check_ins_per_day=96, eligible_share=1.0, drop_out=0.0, old_share=0.0, session_seconds=7200
)
BOUNDS = AggregationSpec(
    clip_norm=0.4, population=12, cohort_floor=1, max_rounds=40, max_participations=40
)


@pytest.fixture(scope="module")
def waiting(make: Callable[..., SimulationTask]) -> SimulationTask:
    return make(privacy="none", dp=None, aggregation=BOUNDS)


@pytest.fixture(scope="module")
def open_task(waiting: SimulationTask) -> SimulationTask:
    spec = AsynchronousSpec(max_staleness=3, min_separation=4)
    return waiting.changed(aggregation=dataclasses.replace(BOUNDS, asynchronous=spec))


def simulation(task: SimulationTask, fleet: PackedData, reports: int) -> BufferedSimulation:
    clock = FleetClock(BUSY, devices=len(fleet), seed=5)
    return BufferedSimulation(
        task, fleet, clock, reports_per_release=reports, at_once=12, settings=SEEDED
    )


def test_a_release_of_one_model_is_a_round(
    waiting: SimulationTask, open_task: SimulationTask, fleet: PackedData
) -> None:
    """Where all trained on the same model, it moves as by a round of the same devices."""
    with simulation(open_task, fleet, 6) as buffered, Simulation(waiting, fleet, SEEDED) as rounds:
        took: list[int] = []
        original = buffered.sum_round

        def watch(devices: np.ndarray, **given: object) -> object:
            took.extend(devices.tolist())
            return original(devices, **given)

        buffered.sum_round = watch  # type: ignore[method-assign, assignment]
        start = rounds.parameters.copy()
        (released,) = buffered.run_releases(1)
        assert (released.reports, released.staleness) == (6, 0)
        exact = rounds.sum_round(np.array(took), number=1)
        expected = exact.total * BOUNDS.grid_step / 6
        # Both are rounded at random, each coordinate of each report by less than one unit.
        moved = buffered.parameters - start
        np.testing.assert_allclose(moved, expected, rtol=0, atol=2 * BOUNDS.grid_step)
        assert np.abs(expected).max() > 100 * BOUNDS.grid_step


def test_late_reports_count_less_and_devices_keep_apart(
    open_task: SimulationTask, fleet: PackedData
) -> None:
    """Weights are the trusted tier's; no device is in two releases closer than its separation."""
    with simulation(open_task, fleet, 2) as buffered:
        took: list[tuple[int, int]] = []
        original = buffered.sum_round

        def watch(devices: np.ndarray, **given: object) -> object:
            took.extend((int(device), int(str(given["number"]))) for device in devices)
            return original(devices, **given)

        buffered.sum_round = watch  # type: ignore[method-assign, assignment]
        releases = list(buffered.run_releases(12))
    assert any(release.staleness > 0 for release in releases)
    assert max(release.staleness for release in releases) <= 3
    assert staleness_weight(3) < staleness_weight(0)
    for device in range(len(fleet)):
        origins = sorted(origin for who, origin in took if who == device)
        assert all(b - a >= 4 for a, b in itertools.pairwise(origins))


def test_the_kind_of_rounds_is_the_plan_s(
    waiting: SimulationTask, open_task: SimulationTask, fleet: PackedData
) -> None:
    """A plan whose rounds wait has no buffer, and a buffer holds at least the plan's floor."""
    with pytest.raises(SimulationError, match="has no `asynchronous`"):
        simulation(waiting, fleet, 4)
    floor = dataclasses.replace(open_task.plan.manifest.aggregation, cohort_floor=6)
    with pytest.raises(SimulationError, match="at least the plan's floor, 6"):
        simulation(open_task.changed(aggregation=floor), fleet, 4)
