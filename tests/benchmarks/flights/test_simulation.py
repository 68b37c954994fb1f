"""The simulated fleet learns what real devices learn, and ``pocketfl bench encoding`` uses it."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch.nn.utils import parameters_to_vector
from typer.testing import CliRunner

from pocketfl.plan import EncodingSpec
from pocketfl_benchmarks.commands import bench
from pocketfl_benchmarks.flights import data, simulation
from pocketfl_benchmarks.flights.simulation import FleetFlights, simulate
from pocketfl_benchmarks.flights.task import (
    BATCH_SIZE,
    TRAINING,
    LatenessModel,
    Schedule,
    lateness_loss,
)


@pytest.fixture(scope="module")
def flights(archive) -> FleetFlights:
    return FleetFlights.of(archive.read())


def test_devices_take_the_steps_that_torch_takes(flights) -> None:
    """All at once, each is where SGD on the demo's own model and loss would have brought it."""
    torch.manual_seed(3)
    model = LatenessModel()
    start = parameters_to_vector(model.parameters()).detach().numpy().copy()
    counts = [5, BATCH_SIZE, 2 * BATCH_SIZE + 3]
    rows = np.zeros((3, 3 * BATCH_SIZE), dtype=np.int64)
    weights = np.zeros(rows.shape, dtype=np.float32)
    for device, count in enumerate(counts):
        rows[device, :count] = np.arange(count) + 7 * device
        weights[device, :count] = 1.0
    updates = simulation._take_steps(flights, rows, weights, start)
    for device, count in enumerate(counts):
        torch.nn.utils.vector_to_parameters(torch.from_numpy(start.copy()), model.parameters())
        optimizer = torch.optim.SGD(model.parameters(), TRAINING.learning_rate)
        for first in range(0, count, BATCH_SIZE):
            chosen = rows[device, first : min(first + BATCH_SIZE, count)]
            optimizer.zero_grad()
            logit = model(torch.from_numpy(flights.features[chosen]))
            lateness_loss(logit, torch.from_numpy(flights.target[chosen])).backward()
            optimizer.step()
        moved = parameters_to_vector(model.parameters()).detach().numpy() - start
        np.testing.assert_allclose(updates[device], moved, atol=1e-6)


def test_runs_of_one_seed_differ_in_their_encoding_only(flights) -> None:
    """The same coins and noise: models are close, though reports had a quarter of the bits."""
    schedule = Schedule(rounds=3, cohort=20, population=len(flights.spans))
    runs = [
        simulate(flights, schedule, seed=1, noise_multiplier=1.0, encoding=encoding)
        for encoding in (None, None, EncodingSpec(bits=8), EncodingSpec(bits=4))
    ]
    other = simulate(flights, schedule, seed=2, noise_multiplier=1.0)
    np.testing.assert_array_equal(runs[0], runs[1])
    distances = [np.linalg.norm(run - runs[0]) for run in (*runs[2:], other)]
    assert distances == sorted(distances)
    assert distances[1] < distances[2] / 2


@pytest.mark.slow
def test_figures_have_the_agreed_names(archive, tmp_path, monkeypatch) -> None:
    """Every figure of the contract is there; the size is that of a real sealed report."""
    monkeypatch.setattr(data, "read_flights", lambda path: archive.read())
    arguments = ["--rounds", "1", "--cohort", "20", "--seeds", "2", "--json"]
    places = ["--data", str(archive.path), "--cache", str(tmp_path)]
    result = CliRunner().invoke(bench, ["encoding", *arguments, *places])
    assert result.exit_code == 0, result.output
    figures = json.loads(result.stdout)
    assert figures["bits_per_coordinate"] == 4
    assert 0.125 < figures["bytes_ratio_to_float32"] <= 0.15
    assert figures["padding"] < 0.02
    assert 0.94 < figures["norm_kept"] < 0.96
    assert figures["share_cut_off"] < 1e-5
    assert abs(figures["auc_loss_points"]) < 100
    assert figures["auc_loss_standard_error"] >= 0
