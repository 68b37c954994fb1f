"""``python -m benchmarks.scale`` and ``benchmarks.soak`` put real load on real processes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from pocketfl_benchmarks.scale.capacity import training_parts
from pocketfl_benchmarks.scale.command import FIGURES, capacity_page
from pocketfl_benchmarks.scale.load import Prepared, send
from pocketfl_benchmarks.soak.steady import Soak, SoakSettings, figures_of

ROOT = Path(__file__).parents[3]


def run(*arguments: str) -> dict:
    done = subprocess.run(
        [sys.executable, "-m", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.slow
def test_the_contract_s_figures_are_measured() -> None:
    """Every figure of the contract is a number above 0, and the round's reports all arrived."""
    figures = run(
        *("benchmarks.scale", "--devices", "40", "--downloads", "40", "--registered", "1000"),
        "--json",
    )
    for name in (
        *("checkins_per_second", "reports_per_second", "p99_ms", "idle_rss_mb"),
        "round_server_seconds",
    ):
        assert figures[name] > 0, name
    assert figures["report"]["requests"] == 39
    assert figures["database_mb_per_million_devices"] > 10


@pytest.mark.slow
def test_a_short_soak_has_no_errors() -> None:
    """Every report with a receipt is in a sum."""
    figures = run("benchmarks.soak", "--minutes", "0.2", "--round-seconds", "20", "--json")
    assert figures["errors"] == 0
    assert figures["reports"] == figures["reports_in_sums"] > 0


def test_errors_of_a_soak_are_counted() -> None:
    """No answer, a refusal, a device without a place and a lost report are errors, each of them."""
    found = Soak(turned_away=1, reports=5, in_sums=4, latencies=[0.1])
    found.statuses["check_in"] = {200: 5, 503: 2, 0: 1}  # type: ignore[assignment]
    found.samples = [{"seconds": float(n), "gateway": 90.0 + n, "trusted": 50.0} for n in range(9)]
    figures = figures_of(found, SoakSettings())
    assert figures["errors"] == 2 + 1 + 1 + 1
    assert figures["memory"]["gateway"]["slope_mb_per_hour"] == pytest.approx(3600)


def test_load_goes_to_loopback_only() -> None:
    """A typing error must not put somebody else under load."""
    with pytest.raises(ValueError, match="loopback only"):
        send("http://192.0.2.1:80", [Prepared(method="GET", path="/")])


def test_the_capacity_page_is_that_of_the_committed_figures(monkeypatch) -> None:
    """Nobody edits a figure on the page by hand; what one machine runs out of first comes first."""
    monkeypatch.chdir(ROOT)
    assert Path("docs/capacity.md").read_text() == capacity_page()
    figures = json.loads((FIGURES / "scale.json").read_text())
    fleets = [part.largest_fleet(1e6) for part in training_parts(figures, devices=1e6)]
    assert fleets == sorted(fleets)
