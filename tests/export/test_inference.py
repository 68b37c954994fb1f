"""Ways to predict: made, measured, chosen by what a device holds, and refused where they are wrong."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from pocketfl.plan import (
    AggregationSpec,
    InferenceSpec,
    Plan,
    RuntimeSpec,
    build_plan,
    generate_signing_key,
    public_key_hex,
)
from pocketfl.runtimes import open_runtime
from pocketfl_export import ExportError, ParityError, ParitySettings, export_plan
from pocketfl_export.onnx import quantization

KEY = generate_signing_key()
ROWS = 32


def trained_problem():
    """A classifier that has learnt which of four corners its input is near, so rows are clear cases."""
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 4))
    corners = 3 * torch.randn(4, 16, generator=generator)
    target = torch.randint(0, 4, (ROWS,), generator=generator)
    inputs = corners[target] + torch.randn(ROWS, 16, generator=generator)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(60):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs), target).backward()
        optimizer.step()
    return model, nn.functional.cross_entropy, {"input": inputs}, target


def export(path: Path, **changes: object) -> Plan:
    arguments: dict[str, object] = {
        "name": "corners",
        "version": "1",
        "signing_key": KEY,
        "privacy": "none",
        "aggregation": AggregationSpec(
            clip_norm=1.0, population=1, cohort_floor=1, max_rounds=1, max_participations=1
        ),
        "parity": ParitySettings(steps=2),
        "runtimes": ["onnxruntime"],
    }
    return export_plan(*trained_problem(), path, **{**arguments, **changes})  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    return export(
        tmp_path_factory.mktemp("plan") / "corners.pocketfl",
        inference={"onnxruntime": ["int8_static", "int8_dynamic"]},
    )


def inputs_of(rows: int = 70) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(3)
    return {"input": (3 * generator.standard_normal((rows, 16))).astype(np.float32)}


def rebuilt(plan: Plan, ways: tuple[InferenceSpec, ...] | None, **parts: bytes) -> Plan:
    """The same plan with another table, and some parts of other contents."""
    manifest = plan.manifest
    spec = dataclasses.replace(manifest.runtimes["onnxruntime"], inference=ways)
    contents = {part.name: plan.part(part.name) for part in manifest.parts}
    contents.update({f"onnxruntime/{name}.onnx": data for name, data in parts.items()})
    return build_plan(
        name=manifest.name,
        version=manifest.version,
        privacy=manifest.privacy,
        model=manifest.model,
        training=manifest.training,
        features=manifest.features,
        aggregation=manifest.aggregation,
        dp=None,
        runtimes={"onnxruntime": spec},
        parts=contents,
        signing_key=KEY,
    )


def beginning_with(plan: Plan, precision: str) -> tuple[InferenceSpec, ...]:
    ways = plan.manifest.runtimes["onnxruntime"].inference or ()
    return tuple(sorted(ways, key=lambda way: way.precision != precision))


def test_the_table_is_measured(plan: Plan) -> None:
    """Every precision has its line with real sizes, and 8 bits take less than half of float32."""
    spec = plan.manifest.runtimes["onnxruntime"]
    table = {way.precision: way for way in spec.inference or ()}
    assert set(table) == {"float32", "int8_static", "int8_dynamic"}
    plain = table["float32"]
    assert plain.size == len(plan.part(spec.predict)) + 4 * len(plan.initial_parameters())
    assert plain.agreement == 1.0
    assert plain.error < 1e-5
    for name in ("int8_static", "int8_dynamic"):
        way = table[name]
        assert way.size == len(plan.part(way.part))
        assert way.agreement >= 0.95
        assert 1e-5 < way.error < 0.15
        assert way.milliseconds > 0


@pytest.mark.parametrize("precision", ["int8_static", "int8_dynamic"])
def test_the_best_way_predicts_until_training_changes_the_parameters(
    plan: Plan, precision: str
) -> None:
    """8-bit parts hold the plan's own weights: they are used for those, and never after a step."""
    batch = inputs_of()
    plain = open_runtime(rebuilt(plan, None), "onnxruntime")
    runtime = open_runtime(rebuilt(plan, beginning_with(plan, precision)), "onnxruntime")
    expected = plain.predict(batch)["output"]
    found = runtime.predict(batch)["output"]
    assert runtime.precision == precision
    assert 0 < np.abs(found - expected).max() < 0.15 * np.abs(expected).max()
    assert (found.argmax(1) == expected.argmax(1)).mean() > 0.9

    changed = plan.initial_parameters() * np.float32(1.5)
    for each in (plain, runtime):
        each.set_parameters(changed)
    np.testing.assert_array_equal(runtime.predict(batch)["output"], plain.predict(batch)["output"])
    assert runtime.precision == "float32"
    runtime.set_parameters(plan.initial_parameters())
    runtime.predict(batch)
    assert runtime.precision == precision
    small = {"input": batch["input"][:4], "target": np.zeros(4, np.int64)}
    runtime.train_step(small, learning_rate=0.1, clip_norm=1.0)
    runtime.predict(batch)
    assert runtime.precision == "float32"


def test_a_part_that_does_not_load_is_passed_over(plan: Plan) -> None:
    """A build of the runtime without these kernels predicts in the next best way."""
    ways = beginning_with(plan, "int8_static")
    broken = rebuilt(plan, ways, int8_static=b"no graph at all")
    runtime = open_runtime(broken, "onnxruntime")
    assert len(runtime.predict(inputs_of(5))["output"]) == 5
    assert runtime.precision != "int8_static"


def test_a_way_that_decides_differently_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A quantiser that spoils the model is found by measuring; nothing is written."""
    right = quantization.quantize

    def spoilt(problem, precision, *, predict, calibration):
        with torch.no_grad():
            problem.model[2].weight.mul_(-1.0)
            made = right(problem, precision, predict=predict, calibration=calibration)
            problem.model[2].weight.mul_(-1.0)
        return made

    monkeypatch.setattr(quantization, "quantize", spoilt)
    with pytest.raises(ParityError, match=r"int8_static.*of rows only"):
        export(tmp_path / "plan.pocketfl", inference=["int8_static"])
    assert list(tmp_path.iterdir()) == []


def test_unknown_precisions_and_runtimes_are_refused(tmp_path: Path) -> None:
    """A typing mistake costs no export."""
    with pytest.raises(ExportError, match="unknown precision 'int4'"):
        export(tmp_path / "plan.pocketfl", inference=["int4"])
    with pytest.raises(ExportError, match="names the runtime 'executorch'"):
        export(tmp_path / "plan.pocketfl", inference={"executorch": ["int8_static"]})


@pytest.mark.slow
def test_executorch_predicts_in_8_bits(tmp_path: Path) -> None:
    """PT2E with XNNPACK: smaller, and it decides like torch."""
    plan = export(
        tmp_path / "plan.pocketfl",
        runtimes=["executorch"],
        inference=["int8_static", "int8_dynamic"],
    )
    spec = plan.manifest.runtimes["executorch"]
    table = {way.precision: way for way in spec.inference or ()}
    assert set(table) == {"float32", "int8_static", "int8_dynamic"}
    assert min(way.agreement for way in table.values()) >= 0.95
    again = Plan.load(tmp_path / "plan.pocketfl", trusted_keys=[public_key_hex(KEY)])
    runtime = open_runtime(again, "executorch")
    runtime.predict(inputs_of(5))
    assert runtime.precision == (spec.inference or ())[0].precision


def test_a_table_that_makes_no_sense_is_refused() -> None:
    """Figures out of bounds, a table without float32."""
    fields = {"part": "a/b.onnx", "size": 1, "agreement": 1.0, "error": 0.0, "milliseconds": 1.0}
    for name, value in (("size", 0), ("agreement", 1.5), ("error", -1.0), ("milliseconds", -1.0)):
        with pytest.raises(ValueError, match=name):
            InferenceSpec(precision="float32", **{**fields, name: value})
    way = InferenceSpec(precision="int8_static", **fields)
    with pytest.raises(ValueError, match="need 'float32'"):
        RuntimeSpec(evaluate="a.onnx", predict="b.onnx", minimum_version="1.0", inference=(way,))
