"""Loads golden plans, trains and predicts with them, and says how far that is from eager torch.

Needs the SDK and its dependencies alone, so that any environment can run it: an old runtime, another
processor. ``python check.py FOLDER RUNTIME`` prints one JSON object per plan.
"""

from __future__ import annotations

import json
import platform
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np

from pocketfl.plan import Plan
from pocketfl.runtimes import open_runtime

PLANS = Path(__file__).parent / "plans"


def check_plan(name: str, runtime_name: str, folder: Path = PLANS) -> dict[str, object]:
    """Return the largest differences from what was recorded when the plan was made."""
    key = (folder / f"{name}.pub").read_text().strip()
    plan = Plan.load(folder / f"{name}.pocketfl", trusted_keys=[key])
    with np.load(folder / f"{name}.npz", allow_pickle=False) as recorded:
        expected = dict(recorded)
    runtime = open_runtime(plan, runtime_name)
    prediction = runtime.predict({"image": expected["image"]})["output"]
    precision = getattr(runtime, "precision", "float32")
    batch = {"image": expected["image"], "target": expected["target"]}
    steps = [
        runtime.train_step(batch, learning_rate=0.05, clip_norm=0.5) for _ in expected["losses"]
    ]
    # By now the parameters are others than those that an 8-bit part holds.
    after = runtime.parameters()
    runtime.predict({"image": expected["image"]})
    result = {
        "plan": name,
        "schema": plan.manifest.schema,
        "machine": platform.machine(),
        "version": version(runtime_name),
        "precision": precision,
        "prediction": _largest(prediction, expected["prediction"]),
        "decides": bool((prediction.argmax(1) == expected["prediction"].argmax(1)).all()),
        "loss": _largest(np.array([s.loss for s in steps]), expected["losses"]),
        "norm": _largest(np.array([s.gradient_norm for s in steps]), expected["norms"]),
        "parameters": _largest(after, expected["parameters"]),
        "precision_after_training": getattr(runtime, "precision", "float32"),
    }
    runtime.close()
    return result


def assert_exact(result: dict[str, object]) -> None:
    """The plan trains and predicts as eager torch did, within rounding."""
    for figure in ("loss", "norm", "parameters"):
        assert result[figure] <= 2e-6, result
    if result["precision"] == "float32":
        assert result["prediction"] <= 1e-5, result
    assert result["decides"] is True
    assert result["precision_after_training"] == "float32"


def plan_names(folder: Path = PLANS) -> list[str]:
    """Return the names of all golden plans."""
    return sorted(path.stem for path in folder.glob("*.pocketfl"))


def _largest(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.abs(np.asarray(found, np.float64) - expected).max())


if __name__ == "__main__":
    for each in plan_names():
        print(json.dumps(check_plan(each, sys.argv[1])), flush=True)
