"""Simulators side by side: everybody gets the same work, and what programs say is read with care."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from pocketfl_benchmarks.simulators.comparison import (
    Pace,
    SlowProgramError,
    best_of,
    figures_of,
    run_program,
)
from pocketfl_benchmarks.simulators.environments import PFL, PeerError
from pocketfl_benchmarks.simulators.work import (
    WORKS,
    Settings,
    WorkError,
    deal,
    draw_cohorts,
    resized,
    save_work,
)
from pocketfl_simulation.engines import ENGINES

CONTRACT = (
    "pocketfl_devices_per_second",
    "pfl_devices_per_second",
    "flower_devices_per_second",
    "ratio_pfl",
    "ratio_flower",
)
SMALL = Settings(kind="mlp", rounds=1, cohort=6, learning_rate=0.4)


@pytest.fixture
def small_work(tmp_path: Path) -> Path:
    """Eight devices with one to fifteen rows of the flights' width, the first of them with one."""
    counts = np.arange(1, 16, 2)
    generator = np.random.default_rng(0)
    features = generator.random((counts.sum(), 184), dtype=np.float32)
    target = (generator.random(counts.sum()) < 0.5).astype(np.float32)
    save_work(tmp_path / "work.npz", SMALL, features=features, target=target, counts=counts)
    return tmp_path / "work.npz"


def pace(devices: int, seconds: float) -> Pace:
    line = json.dumps({"devices": devices, "seconds": seconds, "engine": "dense"})
    return Pace.parse(f"a library says hello\n{line}\n", program="with_something")


def test_the_figures_are_the_contract_s() -> None:
    """Ratios are ours over theirs; a peer that did not run has no figure, and no ratio of 0."""
    paces = {"pocketfl": pace(600, 2.0), "pfl": pace(100, 4.0), "flower": pace(50, 10.0)}
    figures = figures_of(SMALL, paces)
    assert [figures[name] for name in CONTRACT] == [300.0, 25.0, 5.0, 12.0, 60.0]
    alone = figures_of(SMALL, {"pocketfl": paces["pocketfl"]})
    assert [alone[name] for name in CONTRACT] == [300.0, None, None, None, None]
    assert figures["details"]["pocketfl"] == {"engine": "dense"}


@pytest.mark.parametrize(
    "output",
    ["", "Traceback: no\n", "[1]\n", '{"devices": 3}\n', '{"devices": "x", "seconds": 1}\n', "7\n"],
)
def test_a_program_without_a_pace_is_named(output: str) -> None:
    """What is no pace is an error, not a figure."""
    with pytest.raises(PeerError, match="with_flower ended without its pace"):
        Pace.parse(output, program="with_flower")


def test_nothing_timed_is_no_pace() -> None:
    """A round that took no time would be infinitely fast."""
    for devices, seconds in ((0, 1.0), (5, 0.0), (5, float("nan"))):
        with pytest.raises(PeerError, match="nothing was timed"):
            pace(devices, seconds)


def test_programs_that_fail_or_never_end_are_errors() -> None:
    """With what they said, or what to do."""
    fails = [sys.executable, "-c", "raise SystemExit('no such model')"]
    with pytest.raises(PeerError, match="no such model"):
        run_program(fails, name="with_pfl", seconds=60)
    waits = [sys.executable, "-c", "import time; time.sleep(60)"]
    with pytest.raises(PeerError, match="--seconds"):
        run_program(waits, name="with_pfl", seconds=0.2)


def test_a_peer_runs_in_the_way_that_suits_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fastest of threads and processes counts; one that never ends is slower."""
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    tried: list[tuple[int, int]] = []
    limits: list[float] = []

    def run(threads: int, processes: int, limit: float) -> Pace:
        tried.append((threads, processes))
        limits.append(limit)
        return pace(10, 4.0 / (threads + 2 * processes))

    assert best_of(run, seconds=70).devices_per_second == pytest.approx(22.5)
    assert tried == [(1, 1), (4, 1), (1, 4)]
    assert limits[0] == 70
    assert all(limit < 20 for limit in limits[1:])

    def run_into_the_limit(threads: int, processes: int, limit: float) -> Pace:
        if threads * processes > 1:
            raise SlowProgramError("pfl took too long")
        return pace(10, 4.0)

    assert best_of(run_into_the_limit, seconds=70).devices_per_second == 2.5


def test_cohorts_are_whole_and_the_same_for_everybody() -> None:
    """Nobody is in a round twice, and every program that reads the file meets the same devices."""
    for settings in WORKS.values():
        cohorts = draw_cohorts(settings, devices=1000)
        assert cohorts.shape == (settings.rounds + 1, settings.cohort)
        assert all(len(set(cohort.tolist())) == settings.cohort for cohort in cohorts)
        assert np.array_equal(cohorts, draw_cohorts(settings, devices=1000))
    with pytest.raises(WorkError, match="cohort of 9"):
        draw_cohorts(resized(SMALL, cohort=9, rounds=None), devices=8)


def test_rows_are_dealt_once_and_unevenly_by_class() -> None:
    """Each device has as many rows, no row is dealt twice, and classes differ between devices."""
    target = np.arange(2000) % 10
    rows = deal(target, devices=40, concentration=0.5)
    assert sorted(rows.tolist()) == list(range(2000))
    counts = np.stack([np.bincount(part, minlength=10) for part in target[rows].reshape(40, 50)])
    # The first to choose have what they want: their largest class is far above a tenth.
    assert np.median(counts[:20].max(axis=1)) > 15


def test_unknown_work_is_refused() -> None:
    """Before anything is fetched."""
    import typer

    from pocketfl_benchmarks.simulators.command import simulators

    app = typer.Typer()
    app.command()(simulators)
    found = CliRunner().invoke(app, ["--work", "transformer"])
    assert found.exit_code == 2
    assert "mlp, cnn" in found.output


@pytest.mark.slow
def test_our_program_trains_the_work(small_work: Path) -> None:
    """In a process of its own, as the command runs it."""
    command = [sys.executable, "-m", "pocketfl_benchmarks.simulators.with_pocketfl", small_work]
    found = run_program(command, name="pocketfl", seconds=120)
    assert found.devices == 6
    assert found.details["engine"] in ENGINES
    assert found.details["bound_devices_per_second"] > found.devices_per_second


@pytest.mark.slow
def test_pfl_trains_the_same_work(small_work: Path) -> None:
    """In its own environment, which the first run installs."""
    command = [PFL.python(), "-m", "pocketfl_benchmarks.simulators.with_pfl", small_work, 1]
    assert run_program(command, name="pfl", seconds=120).devices == 6
