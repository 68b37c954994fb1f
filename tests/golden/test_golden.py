"""A plan that was released once loads and trains for ever, on every runtime that it was promised to."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pocketfl.errors import PlanUnsupportedError
from pocketfl.plan.manifest import Manifest
from pocketfl.plan.schemas import READABLE_SCHEMAS, SCHEMA_VERSION

from .check import assert_exact, check_plan, plan_names

ROOT = Path(__file__).parents[2]
OLDEST = "1.22.0"
"""Of ONNX Runtime: what plans ask for and pyproject.toml allows."""
WITH_TELEMETRY = "1.31.1"
"""A release that reports by default."""
_SDK = ("numpy>=1.26", "cryptography>=43", "pyhpke>=0.6,<0.7", "urllib3>=2.2,<3", "psutil>=6")


@pytest.mark.parametrize("runtime", ["onnxruntime", "executorch"])
@pytest.mark.parametrize("name", plan_names())
def test_golden_plans_train_as_torch_did(name: str, runtime: str) -> None:
    """The same three steps and the same predictions as on the day when the plan was made."""
    result = check_plan(name, runtime)
    assert name == f"schema_{result['schema']}"
    assert_exact(result)


def test_every_readable_schema_has_a_golden_plan() -> None:
    """The present schema and the one before; a new one needs its plan before it is released."""
    assert plan_names() == [f"schema_{version}" for version in READABLE_SCHEMAS]
    assert (SCHEMA_VERSION - 1, SCHEMA_VERSION) == READABLE_SCHEMAS


def test_a_plan_from_the_future_is_refused_for_that_reason() -> None:
    """Not for the first field that this version does not know."""
    data = json.dumps({"schema": SCHEMA_VERSION + 1, "something": {"new": True}}).encode()
    with pytest.raises(PlanUnsupportedError, match="update the app"):
        Manifest.from_json(data)
    with pytest.raises(PlanUnsupportedError, match="export the plan again"):
        Manifest.from_json(b'{"schema": 0}')


def install(folder: Path, version: str) -> Path:
    """One release of ONNX Runtime with the SDK's dependencies, in a folder of their own."""
    command = [sys.executable, "-m", "pip", "install", "-q", "--target", folder]
    subprocess.run([*command, f"onnxruntime=={version}", *_SDK], check=True, timeout=500)
    return folder


def run_check(
    packages: Path, home: Path, *, tracer: tuple[str | Path, ...] = ()
) -> list[dict[str, object]]:
    """Run the check with these packages and the SDK alone."""
    # Without site-packages, so that nothing of this environment is seen.
    command = [*tracer, sys.executable, "-S", ROOT / "tests" / "golden" / "check.py"]
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": f"{packages}{os.pathsep}{ROOT / 'sdk'}",
        "HOME": str(home),
        "OMP_NUM_THREADS": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    done = subprocess.run(
        [*command, "onnxruntime"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=500,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.slow
@pytest.mark.timeout(1100)
def test_the_oldest_supported_runtime_trains_the_same(tmp_path: Path) -> None:
    """Opset and minimum version that plans declare are true."""
    pyproject = (ROOT / "pyproject.toml").read_text()
    assert f"onnxruntime>={OLDEST.rsplit('.', 1)[0]},<1.29" in pyproject
    results = run_check(install(tmp_path / "old", OLDEST), tmp_path)
    assert [result["plan"] for result in results] == plan_names()
    for result in results:
        assert result["version"] == OLDEST
        assert_exact(result)


@pytest.mark.slow
@pytest.mark.timeout(1100)
@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
def test_a_runtime_with_telemetry_writes_and_sends_nothing(tmp_path: Path) -> None:
    """Under the SDK, a release that reports by default opens no connection and keeps no events.

    Every system call of the process is looked at, the library's own threads included.
    """
    packages = install(tmp_path / "new", WITH_TELEMETRY)
    home, trace = tmp_path / "home", tmp_path / "trace"
    home.mkdir()
    strace = ("strace", "-f", "-qq", "-e", "trace=connect,sendto,sendmsg,openat,open,mkdir")
    results = run_check(packages, home, tracer=(*strace, "-o", trace))
    for result in results:
        assert result["version"] == WITH_TELEMETRY
        assert_exact(result)
    calls = trace.read_text()
    assert "libonnxruntime" in calls or "onnxruntime_pybind11_state" in calls
    assert "AF_INET" not in calls
    assert "DeveloperTools" not in calls
    assert "onnxruntime.db" not in calls
    assert list(home.rglob("*")) == []
