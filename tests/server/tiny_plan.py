"""A signed plan of a model so small that its sums can be told by eye."""

from __future__ import annotations

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from pocketfl.features.transforms import FeatureSpec, FieldSpec, InputSpec, LabelSpec, Tensor
from pocketfl.plan import (
    AggregationSpec,
    BudgetSpec,
    DifferentialPrivacySpec,
    ModelSpec,
    ParameterSpec,
    Plan,
    RuntimeSpec,
    TensorSpec,
    TrainingSpec,
    build_plan,
)
from pocketfl.plan.manifest import PARAMETERS_PART


def tiny_plan(
    *,
    parameters: int,
    name: str,
    signing_key: Ed25519PrivateKey,
    aggregation: AggregationSpec,
    dp: DifferentialPrivacySpec | None,
    budget: BudgetSpec | None = None,
    initial: np.ndarray | None = None,
) -> Plan:
    """Sign a plan of a model with so many parameters, whose graphs are no graphs; None: no privacy."""
    runtime = {kind: f"onnxruntime/{kind}.onnx" for kind in ("train", "evaluate", "predict")}
    weights = np.zeros(parameters) if initial is None else initial
    return build_plan(
        name=name,
        version="1",
        privacy="none" if dp is None else "gaussian",
        model=ModelSpec(
            parameters=(ParameterSpec(name="weight", shape=(parameters,), offset=0),),
            inputs=(TensorSpec(name="x", dtype="float32", shape=(2,)),),
            target=TensorSpec(name="target", dtype="float32"),
            outputs=(TensorSpec(name="output", dtype="float32", shape=(1,)),),
            batch_size=4,
        ),
        training=TrainingSpec(),
        features=FeatureSpec(
            collection="examples",
            fields=(
                FieldSpec(name="x", type="tensor", shape=(2,)),
                FieldSpec(name="y", type="float"),
            ),
            inputs=(InputSpec(tensor="x", columns=(Tensor(field="x"),)),),
            label=LabelSpec(field="y"),
        ),
        aggregation=aggregation,
        dp=dp,
        budget=budget,
        runtimes={"onnxruntime": RuntimeSpec(**runtime, minimum_version="1.22.0", opset=17)},
        parts={
            PARAMETERS_PART: weights.astype("<f4").tobytes(),
            **{part: part.encode() for part in runtime.values()},
        },
        signing_key=signing_key,
    )
