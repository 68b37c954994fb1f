"""Golden plans, the store and sealed reports on 64-bit ARM: with Debian's Python and real wheels."""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest

from pocketfl.clipping import is_within_bound
from pocketfl.plan import Plan
from pocketfl.reports import decode_vector
from pocketfl.runtimes.executorch_build import LIBRARY_VARIABLE, build_library
from pocketfl.sealing import ReportContext, generate_key_pair
from pocketfl.store import ExampleStore
from pocketfl_server.trusted.opening import Opener

from ..check import PLANS, assert_exact, check_plan, plan_names
from . import device
from .environment import Arm, open_environment

pytestmark = [pytest.mark.aarch64, pytest.mark.timeout(1500)]

FIGURES = ("loss", "norm", "parameters", "prediction")


@pytest.fixture(scope="module")
def arm() -> Arm:
    return open_environment()


def show(results: list[dict[str, object]]) -> None:
    """Print the largest difference of each figure from eager torch."""
    for result in results:
        differences = "  ".join(f"{name} {result[name]:.1e}" for name in FIGURES)
        print(f"{result['plan']}  {result['machine']:7}  {differences}  ({result['precision']})")


@pytest.mark.parametrize("runtime", ["onnxruntime", "executorch"])
def test_golden_plans_train_on_aarch64(
    runtime: str, arm: Arm, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Every plan that was ever released loads, verifies, trains and predicts there as torch did.

    ExecuTorch runs without torch, by the library that a desktop builds, built for ARM.
    """
    environment = {}
    if runtime == "executorch":
        library = build_library(
            tmp_path / "executorch.so",
            compiler="aarch64-linux-gnu-g++",
            package=arm.executorch,
            version=version(runtime),
        )
        environment[LIBRARY_VARIABLE] = str(library)
    script = Path(check_plan.__code__.co_filename)
    printed = arm.run(script, runtime, environment=environment)
    results = [json.loads(line) for line in printed.splitlines()]
    with capfd.disabled():
        print(f"\n{runtime} {version(runtime)}: largest differences from eager torch")
        show(results)
        show([check_plan(name, runtime) for name in plan_names()])
    assert [result["plan"] for result in results] == plan_names()
    for result in results:
        assert result["machine"] == "aarch64"
        assert result["version"] == version(runtime)
        assert_exact(result)


def test_store_and_report_cross_between_processors(arm: Arm, tmp_path: Path) -> None:
    """A store that was begun here goes on there, and a report that was sealed there opens here."""
    name = plan_names()[-1]
    plan_file, key = PLANS / f"{name}.pocketfl", (PLANS / f"{name}.pub").read_text().strip()
    examples, store_file = PLANS / f"{name}.npz", tmp_path / "examples.sqlite"
    plan = Plan.load(plan_file, trusted_keys=[key])
    rows = device.rows(examples)
    with ExampleStore(store_file) as store:
        device.append(store, plan, rows[::-1])

    private, public = generate_key_pair()
    script = Path(device.__file__)
    said = json.loads(arm.run(script, plan_file, key, store_file, examples, public.hex()))
    assert said["machine"] == "aarch64"
    assert said["found"] == len(rows)
    update = np.array(said["update"], np.float32)

    # What it added can be read, and to train on it here comes to the same.
    with ExampleStore(store_file) as store:
        held = store.select(plan.manifest.features.collection, limit=100, seed=0)
        expected = rows[::-1] + rows
        assert held.columns["target"] == [row["target"] for row in expected]
        np.testing.assert_array_equal(held.columns["image"], [row["image"] for row in expected])
        here = device.train(store, plan) - plan.initial_parameters()
    assert np.abs(update).max() > 1e-3
    assert np.abs(update - here).max() <= 2e-6

    context = ReportContext(**said["context"])
    opened = Opener(private, context).open(context.lease, bytes.fromhex(said["report"]))
    assert opened is not None
    manifest = plan.manifest
    values = decode_vector(opened, length=manifest.report_length, bits=manifest.report_bits)
    assert is_within_bound(values, manifest.aggregation)
    scale = min(1.0, manifest.aggregation.clip_norm / float(np.linalg.norm(update)))
    step = manifest.aggregation.grid_step
    # Each coordinate was rounded up or down, after clipping to a little less than the bound.
    assert np.abs(values * step - update * scale).max() <= 2 * step
