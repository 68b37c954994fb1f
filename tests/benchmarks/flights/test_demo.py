"""The whole demo, small: real stores, plan, processes, HTTP, trusted tier, baselines and report."""

import contextlib
import json

import pytest

from pocketfl_benchmarks.flights import command, run
from pocketfl_benchmarks.flights.data import is_held_out
from pocketfl_benchmarks.flights.run import DemoError, DemoSettings, run_demo


class SilentStages:
    def __init__(self):
        self.seen = []

    @contextlib.contextmanager
    def stage(self, name, total=None):
        done = []
        yield done.append
        self.seen.append((name, total, sum(done)))


@pytest.fixture
def one_runtime(monkeypatch):
    """Export for ONNX Runtime alone: the other one has its own tests, and takes its time."""
    monkeypatch.setattr(run, "RUNTIME_NAMES", ("onnxruntime",))


def test_a_small_fleet_from_archive_to_figures(archive, tmp_path, one_runtime, monkeypatch):
    """Two private and two unprotected rounds over the whole system, through the command line."""
    from typer import Typer
    from typer.testing import CliRunner

    monkeypatch.setattr(command, "read_flights", lambda path: archive.read())
    app = Typer()
    app.command()(command.demo)
    arguments = ["--rounds", "2", "--cohort", "20", "--data", archive.path, "--cache", tmp_path]
    outputs = ["--json", tmp_path / "figures.json", "--report", tmp_path / "report.html"]
    ended = CliRunner().invoke(app, [str(a) for a in (*arguments, *outputs, "--no-open")])
    assert ended.exit_code == 0, ended.output
    figures = json.loads((tmp_path / "figures.json").read_text())
    aircraft = archive.read().aircraft
    assert figures["devices"] == sum(not is_held_out(name) for name in aircraft)
    assert figures["held_out_devices"] == sum(map(is_held_out, aircraft))
    assert figures["rounds"] == 2
    assert figures["model_versions"] == 3
    assert 0 < figures["epsilon"] <= 8
    assert figures["epsilon"] <= figures["epsilon_against_back_end"]
    assert all(0 <= auc <= 1 for auc in figures["auc"].values())
    # A fleet this small is hidden by noise, or tells its ranges; each feature is one or the other.
    learned = figures["learned"]
    told = {*learned["ranges"], *learned["hidden_by_noise"]}
    assert told >= {"hour", "minute", "distance", "built", "seats", "engines"}
    assert [arm["name"] for arm in figures["bought"]][:2] == ["public ranges", "private ranges"]
    # The last point of the curve is the runtime's figure but for rounding.
    for arm in ("private", "federated"):
        assert figures["auc_by_round"][arm][-1] == pytest.approx(figures["auc"][arm], abs=1e-3)
    assert figures["bytes_up_per_report"] > 2 * figures["parameters"]
    assert figures["device_seconds_per_round"] > 0
    assert 0 < figures["peak_memory_mb"] < 500
    for shown in ("FL-DP", "no differential privacy", "epsilon"):
        assert shown in ended.output
        assert shown in (tmp_path / "report.html").read_text()


@pytest.mark.slow
def test_without_privacy_and_on_executorch(archive, tmp_path):
    """--no-dp runs one arm over HTTP under a plan that says so; ExecuTorch trains as well."""
    settings = DemoSettings(runtime="executorch", rounds=1, cohort=20, private=False)
    stages = SilentStages()
    result = run_demo(archive.read(), settings, cache=tmp_path, stages=stages)
    assert result.private is None
    assert result.federated.arm.spent.privacy == "none"
    assert result.federated.arm.transport == "HTTP"
    assert result.federated.arm.rounds[0].version.privacy == "none"
    assert all(total in (None, done) for _, total, done in stages.seen)


def test_a_cohort_beyond_the_fleet_is_refused(archive, tmp_path):
    """Before anything is built, and naming the number of devices."""
    devices = sum(not is_held_out(name) for name in archive.read().aircraft)
    with pytest.raises(DemoError, match=f"1 to {devices}"):
        run_demo(
            archive.read(),
            DemoSettings(cohort=devices + 1),
            cache=tmp_path,
            stages=SilentStages(),
        )
    assert list(tmp_path.iterdir()) == []


def test_a_run_of_nothing_is_refused():
    """Leaving out both arms leaves nothing."""
    with pytest.raises(DemoError, match="nothing to run"):
        DemoSettings(private=False, unprotected=False)
