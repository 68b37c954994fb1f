"""Cohorts, packing and budgets of simulated rounds."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pocketfl.plan import AggregationSpec, DifferentialPrivacySpec
from pocketfl.plan.adaptive_clipping import AdaptiveClippingSpec
from pocketfl.plan.aggregation import TreeNoiseSpec
from pocketfl.plan.asynchronous import AsynchronousSpec
from pocketfl_server.trusted.accounting import spent_privacy
from pocketfl_simulation import PackedData, Simulation, SimulationSettings, SimulationTask
from pocketfl_simulation.cohorts import Cohorts
from pocketfl_simulation.data import FactoryData, SelectedData
from pocketfl_simulation.errors import SimulationError
from pocketfl_simulation.packing import pack
from pocketfl_simulation.scenario import scale_bounds

SEEDED = SimulationSettings(seed=1, engine="onnxruntime", threads=2)


def test_the_accountant_is_the_trusted_tiers_and_ends_the_task(
    task: SimulationTask, fleet: PackedData
) -> None:
    """Each release is priced as in production, and none is made that the plan cannot afford."""
    manifest = task.plan.manifest
    with Simulation(task, fleet, SEEDED) as simulation:
        rounds = list(simulation.run(manifest.aggregation.max_rounds + 5))
    for number, done in enumerate(rounds, start=1):
        assert done.epsilon == spent_privacy(manifest, number).epsilon
    assert manifest.dp is not None
    beyond = spent_privacy(manifest, len(rounds) + 1).epsilon
    assert beyond is not None
    assert beyond > manifest.dp.epsilon or len(rounds) == manifest.aggregation.max_rounds


def test_noise_is_never_seeded_and_everything_else_is(
    make: Callable[..., SimulationTask], fleet: PackedData
) -> None:
    """Of one seed, exact sums are the same with any number of threads; noised ones never are."""
    private, open_task = make(), make(privacy="none", dp=None)

    def run(task: SimulationTask, threads: int) -> np.ndarray:
        settings = SimulationSettings(seed=1, engine="onnxruntime", threads=threads)
        with Simulation(task, fleet, settings) as simulation:
            simulation.run_round()
            return simulation.parameters

    assert np.array_equal(run(open_task, 1), run(open_task, 3))
    assert not np.array_equal(run(private, 1), run(private, 1))


def test_below_the_floor_nothing_is_released(task: SimulationTask, fleet: PackedData) -> None:
    """A round that loses a report too many is aborted: no charge, and the model stays."""
    with Simulation(task, fleet, SEEDED) as simulation:
        before = simulation.parameters.copy()
        done = simulation.run_round(reporting=lambda cohort: cohort[1:])
        assert (done.state, done.epsilon) == ("aborted", 0.0)
        assert np.array_equal(simulation.parameters, before)
        assert simulation.run_round().state == "finished"


@settings(deadline=None, max_examples=30)
@given(
    probability=st.floats(0.01, 1.0),
    cap=st.integers(1, 6),
    separation=st.integers(1, 4),
    seed=st.integers(0, 2**32),
)
def test_no_device_takes_part_more_often_or_sooner_than_its_plan_says(
    task: SimulationTask, probability: float, cap: int, separation: int, seed: int
) -> None:
    """Caps and separations hold in every cohort, and nobody is in one twice."""
    aggregation = AggregationSpec(
        clip_norm=1.0,
        population=50,
        sampling_probability=probability,
        cohort_floor=1,
        max_rounds=6,
        max_participations=cap,
    )
    dp = DifferentialPrivacySpec(
        noise_multiplier=1.0,
        epsilon=900.0,
        delta=1e-5,
        tree=TreeNoiseSpec(min_separation=separation),
    )
    manifest = dataclasses.replace(task.plan.manifest, aggregation=aggregation, dp=dp)
    cohorts = Cohorts(manifest, devices=50, seed=seed)
    took_part: dict[int, list[int]] = {}
    for number in range(1, 7):
        cohort = cohorts.toss(number).tolist()
        assert len(set(cohort)) == len(cohort)
        for device in cohort:
            took_part.setdefault(device, []).append(number)
    for rounds in took_part.values():
        assert len(rounds) <= cap
        assert all(later - sooner >= separation for sooner, later in itertools.pairwise(rounds))


def test_every_device_takes_as_many_steps_as_it_has_batches(
    task: SimulationTask, fleet: PackedData
) -> None:
    """Packing neither pads a device nor lets one row of another in."""
    manifest = task.plan.manifest
    steps = pack(fleet, list(range(len(fleet))), seeds=range(len(fleet)), manifest=manifest)
    training, size = manifest.required_training, manifest.required_model.batch_size
    _, holdings = fleet.fetch(range(len(fleet)))
    ends = np.cumsum(steps.counts)
    for device, holding in enumerate(holdings):
        own = slice(ends[device] - steps.counts[device], ends[device])
        rows, weight = steps.rows[own], steps.weight[own]
        assert ((rows >= holding.rows.start) & (rows < holding.rows.stop)).all()
        used = np.sort(rows[weight > 0])
        # Both epochs use the same examples, each once.
        assert (np.unique(used, return_counts=True)[1] == training.epochs).all()
        assert steps.counts[device] == training.epochs * -(-(len(used) // training.epochs) // size)


def test_data_that_are_made_on_demand_train_alike(
    make: Callable[..., SimulationTask], fleet: PackedData
) -> None:
    """A factory of devices gives what the packed fleet gives, and only those at work are made."""
    aggregation = AggregationSpec(
        clip_norm=0.4, population=1000, cohort_floor=1, max_rounds=9, max_participations=9
    )
    task = make(
        privacy="none", dp=None, aggregation=scale_bounds(aggregation, devices=1000, cohort=40)
    )
    arrays, holdings = fleet.fetch(range(len(fleet)))
    made: list[int] = []

    class Devices:
        def __len__(self) -> int:
            return 1000

        def __getitem__(self, device: int) -> dict[str, np.ndarray]:
            made.append(device)
            rows = holdings[device % len(holdings)].rows
            return {name: array[rows] for name, array in arrays.items()}

    with Simulation(task, FactoryData(Devices()), SEEDED) as simulation:
        done = simulation.run_round()
    assert sorted(made) == sorted(set(made))
    assert len(made) == done.cohort < 100
    repeated = SelectedData(fleet, np.arange(1000) % len(fleet))
    assert len({repeated.name(device) for device in range(1000)}) == 1000


@pytest.mark.parametrize(("devices", "cohort"), [(1_000_000, 1000), (5, None), (12, 12)])
def test_bounds_of_another_fleet_are_sound(
    task: SimulationTask, devices: int, cohort: int | None
) -> None:
    """A fleet of another size keeps the cohort where it can, and a floor that chance alone keeps."""
    bounds = scale_bounds(task.plan.manifest.aggregation, devices=devices, cohort=cohort)
    assert bounds.population == devices
    assert bounds.expected_cohort == pytest.approx(cohort or devices)


def test_a_clip_norm_that_adapts_moves_towards_its_quantile(
    make: Callable[..., SimulationTask], fleet: PackedData
) -> None:
    """By the count in the reports: far too large at first, it comes down to the updates' median."""
    adaptive = AdaptiveClippingSpec(min_clip_norm=0.01, max_clip_norm=100.0, learning_rate=1.0)
    bounds = AggregationSpec(
        clip_norm=50.0,
        population=len(fleet),
        cohort_floor=1,
        max_rounds=20,
        max_participations=20,
        adaptive=adaptive,
    )
    task = make(privacy="none", dp=None, aggregation=bounds)
    with Simulation(task, fleet, SEEDED) as simulation:
        rounds = list(simulation.run(15))
    assert rounds[0].clipped_share == 0
    assert 0.2 < np.mean([done.clipped_share for done in rounds[-4:]]) < 0.8


def test_a_plan_for_asynchronous_rounds_is_refused(
    make: Callable[..., SimulationTask], fleet: PackedData
) -> None:
    """Before anything is trained, with what to do."""
    bounds = AggregationSpec(
        clip_norm=1.0,
        population=len(fleet),
        cohort_floor=1,
        max_rounds=20,
        max_participations=4,
        asynchronous=AsynchronousSpec(),
    )
    task = make(privacy="none", dp=None, aggregation=bounds)
    with pytest.raises(SimulationError, match="leave `asynchronous` out"):
        Simulation(task, fleet, SEEDED)
