"""A model that counts: its un-noised sum says which examples of whom were trained on, and how often.

Every example carries a slot of its own. The training graph adds ``learning_rate`` to the parameter of
the slot of each row, so a device's update is, slot by slot, the number of times that an example was
trained on. All values are multiples of the plan's grid step and powers of two divide them, so neither
float32 nor the grid rounds anything: the sum is exact.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import onnx.parser
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from numpy.typing import NDArray

from pocketfl.features.transforms import FeatureSpec, FieldSpec, InputSpec, LabelSpec, OneHot
from pocketfl.plan import (
    AggregationSpec,
    DifferentialPrivacySpec,
    EligibilitySpec,
    ModelSpec,
    ParameterSpec,
    Plan,
    RuntimeSpec,
    TensorSpec,
    TrainingSpec,
    build_plan,
)
from pocketfl.plan.manifest import PARAMETERS_PART
from pocketfl.store import Collection, Field

SLOTS: Final = 384
"""Examples that can be told apart in one task."""
EPOCHS: Final = 4
BATCH: Final = 4
POPULATION: Final = 8
UNITS_PER_EPOCH: Final = 16
WHOLE: Final = EPOCHS * UNITS_PER_EPOCH
"""What one report adds to the slot of each of its examples, in grid units."""
MAX_ROUNDS: Final = 100_000
NOISE_MULTIPLIER: Final = 100.0
"""Of the task with differential privacy, whose budget is to last for many runs."""
PROTECTED_ROUNDS: Final = 2_000
EPSILON_DELTA: Final = 1e-6

COLLECTION: Final = Collection("moments", {"slot": Field("int"), "liked": Field("float")})

_P: Final = SLOTS + 1  # a one-hot column has one more place, for words that it does not know
_HEAD: Final = '<ir_version: 8, opset_import: ["" : 17]>\n'
_GRAPHS: Final = {
    "train": f"""
train (float[{_P}] parameters, float[{BATCH},{_P}] x, float[{BATCH}] target,
       float[{BATCH}] weight, float learning_rate, float clip_norm)
   => (float[{_P}] new_parameters, float loss, float gradient_norm)
<int64[1] first = {{0}}>
{{
  row = Unsqueeze(weight, first)
  counted = MatMul(row, x)
  counts = Squeeze(counted, first)
  change = Mul(learning_rate, counts)
  new_parameters = Add(parameters, change)
  gradient_norm = ReduceL2<keepdims = 0>(counts)
  error = Mul(target, weight)
  loss = ReduceMean<keepdims = 0>(error)
}}""",
    "evaluate": f"""
evaluate (float[{_P}] parameters, float[{BATCH},{_P}] x, float[{BATCH}] target,
          float[{BATCH}] weight) => (float loss, float[{BATCH}] output)
{{
  output = MatMul(x, parameters)
  error = Mul(target, weight)
  loss = ReduceMean<keepdims = 0>(error)
}}""",
    "predict": f"""
predict (float[{_P}] parameters, float[{BATCH},{_P}] x) => (float[{BATCH}] output)
{{
  output = MatMul(x, parameters)
}}""",
}


def counting_plan(signing_key: Ed25519PrivateKey, *, protected: bool = False) -> Plan:
    """Make the plan: a floor of one report, every device takes part, and no noise.

    With ``protected`` the same graphs have noise, under which only the number of reports is seen.
    """
    max_rounds = PROTECTED_ROUNDS if protected else MAX_ROUNDS
    aggregation = AggregationSpec(
        clip_norm=256.0,
        norm_bound=16_384,
        sampling_probability=1.0,
        population=POPULATION,
        cohort_floor=1,
        max_rounds=max_rounds,
        max_participations=max_rounds,
    )
    parts = {
        f"onnxruntime/{name}.onnx": onnx.parser.parse_model(_HEAD + text).SerializeToString()
        for name, text in _GRAPHS.items()
    }
    parts[PARAMETERS_PART] = np.zeros(_P, dtype="<f4").tobytes()
    return build_plan(
        name="protected" if protected else "counting",
        version="1",
        privacy="gaussian" if protected else "none",
        model=ModelSpec(
            parameters=(ParameterSpec(name="slots", shape=(_P,), offset=0),),
            inputs=(TensorSpec(name="x", dtype="float32", shape=(_P,)),),
            target=TensorSpec(name="target", dtype="float32"),
            outputs=(TensorSpec(name="output", dtype="float32"),),
            batch_size=BATCH,
        ),
        training=TrainingSpec(
            epochs=EPOCHS,
            max_examples=SLOTS,
            learning_rate=UNITS_PER_EPOCH * aggregation.grid_step,
        ),
        features=FeatureSpec(
            collection=COLLECTION.name,
            fields=(FieldSpec(name="slot", type="int"), FieldSpec(name="liked", type="float")),
            inputs=(
                InputSpec(
                    tensor="x", columns=(OneHot(field="slot", vocabulary=tuple(range(SLOTS))),)
                ),
            ),
            label=LabelSpec(field="liked"),
        ),
        aggregation=aggregation,
        dp=DifferentialPrivacySpec(
            noise_multiplier=NOISE_MULTIPLIER, epsilon=20.0, delta=EPSILON_DELTA
        )
        if protected
        else None,
        eligibility=EligibilitySpec(min_examples=1),
        runtimes={
            "onnxruntime": RuntimeSpec(
                train="onnxruntime/train.onnx",
                evaluate="onnxruntime/evaluate.onnx",
                predict="onnxruntime/predict.onnx",
                minimum_version="1.22.0",
                opset=17,
            )
        },
        parts=parts,
        signing_key=signing_key,
    )


def summed(
    before: NDArray[np.float32], after: NDArray[np.float32], plan: Plan
) -> NDArray[np.int64]:
    """Return the sum of a round's reports in grid units, shape (P,).

    Parameters
    ----------
    before, after : ndarray of float32, shape (P,)
        The model before and after the round, under plain averaging.
    plan : Plan
        Of the round.

    Raises
    ------
    ValueError
        If the difference is no sum of integers.
    """
    aggregation = plan.manifest.aggregation
    mean = after.astype(np.float64) - before.astype(np.float64)
    exact = mean * aggregation.expected_cohort / aggregation.grid_step
    units = np.rint(exact)
    if not np.array_equal(units, exact):
        raise ValueError("the model did not move by a sum of integers")
    return units.astype(np.int64)


def example(slot: int) -> dict[str, object]:
    """Return the example of a slot."""
    return {"slot": slot, "liked": float(slot % 2)}
