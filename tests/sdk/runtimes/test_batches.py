"""What a graph reads is what the app gave, whatever was there before."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pocketfl.plan.models import ModelSpec, ParameterSpec, TensorSpec
from pocketfl.runtimes.batches import BatchBuffers

SPEC = ModelSpec(
    parameters=(ParameterSpec(name="w", shape=(1,), offset=0),),
    inputs=(
        TensorSpec(name="x", dtype="float32", shape=(2, 3)),
        TensorSpec(name="i", dtype="int64"),
        TensorSpec(name="b", dtype="bool", shape=(1,)),
    ),
    target=TensorSpec(name="target", dtype="int64"),
    outputs=(TensorSpec(name="output", dtype="float32"),),
    batch_size=5,
)


@st.composite
def batches(draw: st.DrawFn) -> dict[str, np.ndarray]:
    rows = draw(st.integers(1, SPEC.batch_size))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    batch: dict[str, np.ndarray] = {
        "x": rng.standard_normal((rows, 2, 3)).astype(np.float32),
        "i": rng.integers(-(2**60), 2**60, rows),
        "b": rng.random((rows, 1)) < 0.5,
        "target": rng.integers(0, 9, rows),
    }
    if draw(st.booleans()):
        batch["weight"] = rng.random(rows).astype(np.float32) + np.float32(0.01)
    return batch


@given(st.lists(batches(), min_size=1, max_size=4))
def test_rows_come_first_and_padding_is_the_first_row_at_weight_0(
    sequence: list[dict[str, np.ndarray]],
) -> None:
    """Holds for every batch of a sequence: nothing is left of the batches before."""
    buffers = BatchBuffers(SPEC)
    arrays = {name: id(array) for name, array in buffers.arrays.items()}
    for batch in sequence:
        rows = buffers.load_batch(batch)
        assert rows == len(batch["x"])
        for name in ("x", "i", "b", "target"):
            array = buffers.arrays[name]
            np.testing.assert_array_equal(array[:rows], batch[name])
            for padded in array[rows:]:
                np.testing.assert_array_equal(padded, batch[name][0])
        weight = buffers.arrays["weight"]
        np.testing.assert_array_equal(weight[:rows], batch.get("weight", np.ones(rows)))
        assert not weight[rows:].any()
    assert {name: id(array) for name, array in buffers.arrays.items()} == arrays
