"""``pocketfl bench device`` measures real processes and says so in the agreed form."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from pocketfl.runtimes.executorch_build import LIBRARY_VARIABLE
from pocketfl_benchmarks.commands import bench
from pocketfl_benchmarks.device.measurement import MeasurementError, _run


def test_figures_have_the_agreed_names_and_belong_together():
    """Every figure of the contract is there, measured, and consistent with its neighbours."""
    result = CliRunner().invoke(
        bench, ["device", "--json", "--rounds", "3", "--starts", "1", "--rows", "20000"]
    )
    assert result.exit_code == 0, result.stderr
    figures = json.loads(result.stdout)
    assert 45_000 < figures["parameters"] < 55_000
    assert figures["numpy_import_seconds"] < figures["import_seconds"]
    # A cold start includes the interpreter's own and most of what is imported.
    assert figures["cold_start_seconds"] > figures["numpy_import_seconds"]
    assert 0 < figures["peak_rss_mb_over_numpy"] < figures["peak_rss_mb"]
    assert figures["round_overhead_ms"] > 0
    assert figures["round_step_ms"] > 0
    assert sum(figures["phase_ms"].values()) > figures["round_overhead_ms"] / 2
    stored = figures["store"]
    assert stored["rows"] == 20_000
    assert stored["rows_after_eviction"] <= stored["rows"] + 1000
    assert stored["append_per_second"] > 0
    assert stored["eviction_pause_ms"] > 0


def test_executorch_is_not_measured_through_torch(monkeypatch):
    """Before anything is exported or started, the command says what to build."""
    monkeypatch.setenv(LIBRARY_VARIABLE, "")
    result = CliRunner().invoke(bench, ["device", "--runtime", "executorch"])
    assert result.exit_code == 1
    assert "pocketfl runtimes build-executorch" in result.stderr


def test_process_that_fails_is_quoted(tmp_path):
    """The reason of a measured process reaches the person who measures."""
    with pytest.raises(MeasurementError, match=r"no\.plan"):
        _run(
            "cold_start",
            plan=str(tmp_path / "no.plan"),
            plan_key="00" * 32,
            store="",
            runtime="onnxruntime",
            started_at=0.0,
        )
