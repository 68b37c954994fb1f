"""Sweeps go on where they stopped, and say what each setting costs in privacy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pocketfl_server.trusted.accounting import spent_privacy
from pocketfl_simulation import PackedData, SimulationSettings, SimulationTask
from pocketfl_simulation.data import pooled
from pocketfl_simulation.errors import SimulationError
from pocketfl_simulation.evaluation import Evaluator, area_under_curve
from pocketfl_simulation.scenario import Changes, Scenario
from pocketfl_simulation.tuning import Range, tune


def test_a_study_is_resumed_and_prices_its_trials(
    task: SimulationTask, fleet: PackedData, tmp_path: Path
) -> None:
    """A second run adds what is missing; epsilon is the accountant's for each trial's noise."""
    scenario = Scenario(task, fleet, Evaluator(task.problem, pooled(fleet, range(len(fleet)))))
    ranges = {"noise_multiplier": Range(low=1.0, high=4.0), "learning_rate": Range.parse("0.1:0.5")}
    settings = SimulationSettings(engine="onnxruntime", threads=1)

    def run(trials: int) -> list[int]:
        found = tune(
            scenario,
            ranges,
            path=tmp_path / "study.db",
            name="visits",
            trials=trials,
            rounds=2,
            settings=settings,
        )
        assert [tried.quality for tried in found] == sorted(
            (tried.quality for tried in found), reverse=True
        )
        for tried in found:
            changes = Changes(noise_multiplier=tried.settings["noise_multiplier"])
            manifest = scenario.changed(changes).task.plan.manifest
            assert tried.epsilon == pytest.approx(spent_privacy(manifest, 2).epsilon)
        return sorted(tried.number for tried in found)

    assert run(2) == [0, 1]
    assert run(3) == [0, 1, 2]


def test_ranges_that_make_no_sense_are_refused() -> None:
    """Logarithms need numbers above 0, in order."""
    for text in ("0:1", "2:1", "a:b", ""):
        with pytest.raises(SimulationError):
            Range.parse(text)


def test_area_under_the_curve_counts_pairs() -> None:
    """It is the share of pairs in order, ties counted half."""
    generator = np.random.default_rng(0)
    scores = generator.integers(0, 5, size=60).astype(float)
    positive = generator.random(60) < 0.4
    pairs = scores[positive][:, None] - scores[~positive][None]
    assert area_under_curve(scores, positive) == pytest.approx(
        np.mean((pairs > 0) + 0.5 * (pairs == 0))
    )
