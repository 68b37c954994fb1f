"""A fuzzer that follows the branches of the code finds nothing that a parser does not refuse."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

RUNS = 5_000


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "plan",
        "report",
        "compact report",
        "query",
        "release",
        "batch",
        "late batch",
        "anonymous token",
        "attestation token",
    ],
)
def test_guided_search_finds_no_other_error(name: str, hostile, tmp_path: Path) -> None:
    """At most 5,000 inputs or 20 seconds of each format, from a fixed seed."""
    pytest.importorskip("atheris", reason="atheris has packages for Linux only")
    program = Path(__file__).with_name("coverage_guided.py")
    done = subprocess.run(
        [sys.executable, str(program), name, str(RUNS)],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    runs = [int(line.split()[1]) for line in done.stderr.splitlines() if line.startswith("Done ")]
    assert runs and runs[0] > 100
    hostile.tried += runs[0]
