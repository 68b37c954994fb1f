"""Fixtures that several tests of the SDK share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from pocketfl.database import Database
from pocketfl.features.transforms import FeatureSpec, FieldSpec, InputSpec, LabelSpec, Tensor
from pocketfl.plan import (
    AggregationSpec,
    DifferentialPrivacySpec,
    ModelSpec,
    ParameterSpec,
    Plan,
    RuntimeSpec,
    TensorSpec,
    TrainingSpec,
    build_plan,
    generate_signing_key,
)
from pocketfl.plan.manifest import PARAMETERS_PART


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the test's device file is."""
    return tmp_path / "device.db"


@pytest.fixture
def database(path: Path) -> Iterator[Database]:
    """The test's device file, open."""
    with Database(path) as opened:
        yield opened


@pytest.fixture(scope="session")
def tiny_plan() -> Plan:
    """A signed plan whose graphs are placeholders: for tests that never open a runtime."""
    return build_plan(
        name="tiny",
        version="1",
        privacy="gaussian",
        model=ModelSpec(
            parameters=(ParameterSpec(name="weight", shape=(3,), offset=0),),
            inputs=(TensorSpec(name="x", dtype="float32", shape=(3,)),),
            target=TensorSpec(name="target", dtype="float32"),
            outputs=(TensorSpec(name="output", dtype="float32"),),
            batch_size=4,
        ),
        training=TrainingSpec(),
        features=FeatureSpec(
            collection="examples",
            fields=(
                FieldSpec(name="x", type="tensor", shape=(3,)),
                FieldSpec(name="target", type="float"),
            ),
            inputs=(InputSpec(tensor="x", columns=(Tensor(field="x"),)),),
            label=LabelSpec(field="target"),
        ),
        aggregation=AggregationSpec(
            clip_norm=0.5,
            population=1000,
            sampling_probability=0.1,
            cohort_floor=40,
            max_rounds=10,
            max_participations=8,
        ),
        dp=DifferentialPrivacySpec(noise_multiplier=1.0, epsilon=8.0, delta=1e-5),
        runtimes={
            "onnxruntime": RuntimeSpec(
                train="onnxruntime/train.onnx",
                evaluate="onnxruntime/evaluate.onnx",
                predict="onnxruntime/predict.onnx",
                minimum_version="1.22.0",
                opset=17,
            )
        },
        parts={
            PARAMETERS_PART: np.zeros(3, dtype="<f4").tobytes(),
            "onnxruntime/train.onnx": b"train",
            "onnxruntime/evaluate.onnx": b"evaluate",
            "onnxruntime/predict.onnx": b"predict",
        },
        signing_key=generate_signing_key(),
    )
