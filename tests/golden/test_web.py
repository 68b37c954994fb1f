"""The same file that trains on a phone trains in a browser: ONNX Runtime for the web, under Node."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from pocketfl.plan import Plan

from .check import PLANS, plan_names

ONNXRUNTIME_WEB = "1.22.0"
# On a developer's machine Node may be missing; CI has it, or the tests fail.
CAN_RUN = "CI" in os.environ or (shutil.which("node") and shutil.which("npm"))
pytestmark = [pytest.mark.slow, pytest.mark.skipif(not CAN_RUN, reason="needs Node")]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("web")
    (folder / "package.json").write_text('{"private": true}')
    command = ["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts"]
    subprocess.run(
        [*command, f"onnxruntime-web@{ONNXRUNTIME_WEB}"], cwd=folder, check=True, timeout=200
    )
    return folder


@pytest.mark.parametrize("name", plan_names())
def test_golden_plans_train_in_the_web_runtime(name: str, installed: Path) -> None:
    """Predictions, and three steps in WebAssembly, are those of eager torch."""
    key = (PLANS / f"{name}.pub").read_text().strip()
    plan = Plan.load(PLANS / f"{name}.pocketfl", trusted_keys=[key])
    spec = plan.manifest.runtimes["onnxruntime"]
    step, predict = installed / f"{name}.onnx", installed / f"{name}_predict.onnx"
    step.write_bytes(plan.part(str(spec.train)))
    predict.write_bytes(plan.part(str(spec.predict)))
    with np.load(PLANS / f"{name}.npz", allow_pickle=False) as recorded:
        expected = dict(recorded)
    initial = plan.initial_parameters()
    arrays = {
        "parameters": initial,
        "velocity": np.zeros_like(initial),
        "image": expected["image"],
        "target": expected["target"],
        "weight": np.ones(len(expected["target"]), np.float32),
        "learning_rate": np.float32(0.05),
        "clip_norm": np.float32(0.5),
    }
    given = {
        "step": str(step),
        "predict": str(predict),
        "steps": len(expected["losses"]),
        "arrays": {
            label: {
                "type": str(array.dtype),
                "shape": list(array.shape),
                "values": np.ravel(array).tolist(),
            }
            for label, array in arrays.items()
        },
    }
    done = subprocess.run(
        ["node", Path(__file__).with_name("web.mjs"), installed],
        input=json.dumps(given),
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    prediction = np.reshape(found["prediction"], expected["prediction"].shape)
    assert np.abs(prediction - expected["prediction"]).max() <= 1e-5
    assert np.abs(np.array(found["losses"]) - expected["losses"]).max() <= 2e-6
    assert np.abs(np.array(found["parameters"]) - expected["parameters"]).max() <= 2e-6
