"""A dozen runs of the chaos suite; ``python -m tests.chaos`` runs any number."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.chaos.scenarios import FAMILIES

ROOT = Path(__file__).resolve().parents[2]
RUNS = 12
"""The first dozen have every family of faults."""


def test_a_dozen_disturbed_rounds_lose_double_and_halve_nothing(tmp_path: Path) -> None:
    """Killed, cut off, disk full, clock set, file damaged, servers killed: it counts once or never."""
    figures = tmp_path / "chaos.json"
    finished = subprocess.run(
        [
            *(sys.executable, "-m", "tests.chaos"),
            *("--runs", str(RUNS), "--seed", "1", "--json", str(figures)),
        ],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    found = json.loads(figures.read_text())
    killed_at = found.pop("killed_at")
    assert sum(found.pop("servers_killed").values()) >= 1
    assert sum(found.pop("budgets").values()) >= 1
    assert set(found.pop("families")) == set(FAMILIES)
    assert found == {
        "runs": RUNS,
        "examples_lost": 0,
        "double_counted": 0,
        "half_reports": 0,
        "budget_overspends": 0,
        "unrecovered": 0,
    }
    assert sum(killed_at.values()) >= RUNS // 3
