"""The benchmark of an app's screen: a real plan in a real runtime, without torch."""

import dataclasses
import json
import subprocess
import sys

import pytest

from pocketfl.benchmark import run_device_benchmark
from pocketfl.benchmark.verdict import judge_round
from pocketfl.budgets import Amounts, Budgets, EnergyModel, Limits
from pocketfl.errors import RuntimeUnavailableError


def test_figures_fit_together(plan):
    """Ratio, energy and verdict follow from what was measured; progress counts every step."""
    told = []
    found = run_device_benchmark(plan, repeats=5, progress=told.append)
    assert told == [1, 2, 3, 4, 5]
    assert 0 < found.step_ms_median <= found.step_ms_p95
    assert found.ratio == pytest.approx(found.step_ms_median / found.reference_ms)
    assert found.plan_bytes == len(plan.data)
    assert found.upload_bytes > 0
    joules = EnergyModel().joules(
        cpu_seconds=found.round_cpu_seconds,
        bytes_up=found.upload_bytes,
        bytes_down_unmetered=found.download_bytes,
    )
    assert found.round_joules == pytest.approx(joules)
    assert found.fits
    text = json.loads(json.dumps(found.to_json()))
    assert text["fits"] is True
    assert {item["measure"] for item in text["verdict"]} >= {"joules", "peak_memory_bytes"}


def test_a_round_beyond_a_budget_is_said_so(plan):
    """The budget that does not fit is named, with both figures."""
    tight = Budgets(per_round=Limits(bytes_up=100))
    found = run_device_benchmark(plan, repeats=3, budgets=tight)
    assert not found.fits
    (over,) = [item for item in found.verdict if not item.fits]
    assert (over.measure, over.limit, over.needed) == ("bytes_up", 100, found.upload_bytes)


def test_a_limit_is_inclusive():
    """As in the ledger, what comes to exactly the limit fits."""
    assert all(item.fits for item in judge_round(Amounts(joules=5), Limits(joules=5, bytes_up=0)))


def test_what_cannot_be_measured_is_refused(plan):
    """Too few steps for a percentile, and a runtime that the plan has no parts for."""
    with pytest.raises(ValueError, match="at least 3"):
        run_device_benchmark(plan, repeats=2)
    with pytest.raises(RuntimeUnavailableError):
        run_device_benchmark(plan, runtime="tflite", repeats=3)
    assert dataclasses.is_dataclass(run_device_benchmark(plan, repeats=3))


def test_it_runs_without_torch(plan, tmp_path):
    """A phone has none: the import of torch is never even tried."""
    (tmp_path / "plan").write_bytes(plan.data)
    program = (
        "import sys; sys.modules['torch'] = None\n"
        "from pocketfl.benchmark import run_device_benchmark\n"
        "from pocketfl.plan import Plan\n"
        f"plan = Plan.load({str(tmp_path / 'plan')!r}, trusted_keys=[{plan.signed_by!r}])\n"
        "print(run_device_benchmark(plan, repeats=3).fits)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=200
    )
    assert done.stdout.strip() == "True"
