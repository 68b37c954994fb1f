"""A month of a fleet: what it shows, and that its judge does not take the ledger's word for it."""

from __future__ import annotations

import json
from itertools import pairwise

import numpy as np
import pytest
from typer.testing import CliRunner

from pocketfl_benchmarks.commands import bench
from pocketfl_benchmarks.life.device import BUDGETS, Session
from pocketfl_benchmarks.life.habits import DAY, HOUR, draw_habits, script
from pocketfl_benchmarks.life.server import SLOT, PacedServer
from pocketfl_benchmarks.life.simulation import BEGAN, Month, judge_month


def session(at: float, *, cpu_seconds: float = 1.0, sent: bool = True) -> Session:
    return Session(ended_at=at, task="photos", cpu_seconds=cpu_seconds, joules=1.0, sent=sent)


def test_nobody_is_over_budget_and_everybody_can_contribute(tmp_path) -> None:
    """A week of twenty phones: limits hold, places are kept, and the plot is drawn."""
    plot = tmp_path / "week.svg"
    arguments = ["life", "--devices", "20", "--days", "7", "--places", "8", "--plot", str(plot)]
    result = CliRunner().invoke(bench, [*arguments, "--json"])
    assert result.exit_code == 0, result.stderr
    figures = json.loads(result.stdout)
    assert figures["over_budget"] == 0
    assert figures["idle_wake_ups"] == 0
    assert 20 < figures["contributions"] <= figures["sessions"] <= figures["tries"]
    assert figures["busiest_quarter_hour"] <= figures["places_per_quarter_hour"] + 1
    assert figures["highest"]["contributions per day"] == 1.0
    assert figures["refusals"]["charging"] > 0
    assert "<svg" in plot.read_text()


def test_the_judge_sees_what_no_ledger_says() -> None:
    """Two sessions on one day that together go over a limit are found; on two days they are not."""
    limit = BUDGETS.per_day.cpu_seconds
    assert limit is not None
    part = 0.6 * limit
    near = [
        session(BEGAN, cpu_seconds=part),
        session(BEGAN + 5 * HOUR, cpu_seconds=part, sent=False),
    ]
    far = [session(BEGAN, cpu_seconds=part), session(BEGAN + DAY, cpu_seconds=part)]
    verdict = judge_month(Month(sessions={"near": near, "far": far}))
    assert verdict["over_budget"] == 1
    assert verdict["highest"]["cpu_seconds per day"] == pytest.approx(1.2)
    assert verdict["shortest_separation_hours"] == pytest.approx(24.0)


def test_a_script_follows_its_person() -> None:
    """On the charger the battery fills, off it the battery empties, and a sleeper is not metered."""
    random = np.random.default_rng(3)
    states = [state for _, state in script(draw_habits(random), days=3, random=random)]
    for before, after in pairwise(states):
        assert before.battery_level is not None
        assert after.battery_level is not None
        rose = after.battery_level >= before.battery_level
        assert rose if after.charging else not rose or after.battery_level == 0.02
    assert any(state.charging for state in states)


def test_a_full_quarter_of_an_hour_turns_devices_away() -> None:
    """Places are per quarter of an hour; the next one has new ones."""
    server = PacedServer(places_per_slot=1)
    assert server.check_in(now=BEGAN).admitted
    refused = server.check_in(now=BEGAN + 1)
    assert (refused.admitted, refused.reason) == (False, "round_full")
    assert 0 < refused.window[0] < refused.window[1]
    assert server.check_in(now=BEGAN + SLOT).admitted
