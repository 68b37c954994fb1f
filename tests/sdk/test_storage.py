"""Parameters as float16: half the bytes, a stated rounding, and nothing that is not finite."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pocketfl.errors import PlanError
from pocketfl.plan.storage import LARGEST, as_stored, decode_parameters, encode_parameters

VECTORS = hnp.arrays(
    np.float32, st.integers(0, 40), elements=st.floats(-LARGEST, LARGEST, width=32)
)


@given(vector=VECTORS)
def test_what_is_stored_comes_back_rounded_once(vector: np.ndarray) -> None:
    """Within half a unit of the 11th bit, in two bytes each; storing it again changes nothing."""
    data = encode_parameters(vector, "float16")
    assert len(data) == 2 * len(vector) == len(encode_parameters(vector, "float32")) // 2
    back = decode_parameters(data, count=len(vector), storage="float16")
    assert back.dtype == np.float32
    np.testing.assert_array_equal(back, as_stored(vector, "float16"))
    assert (np.abs(back - vector) <= np.maximum(np.abs(vector) * 2.0**-11, 2.0**-25)).all()
    assert encode_parameters(back, "float16") == data


@given(vector=VECTORS)
def test_float32_is_stored_as_it_is(vector: np.ndarray) -> None:
    """Without the option nothing is rounded."""
    data = encode_parameters(vector, "float32")
    np.testing.assert_array_equal(
        decode_parameters(data, count=len(vector), storage="float32"), vector
    )


@pytest.mark.parametrize(
    ("value", "said"),
    [(65_520.0, "65520 cannot be stored as float16"), (np.inf, "not all finite")],
)
def test_what_would_not_be_finite_is_refused(value: float, said: str) -> None:
    """The first number that rounds to infinity is refused with the way out; infinity always is."""
    with pytest.raises(PlanError, match=said):
        encode_parameters(np.array([0.0, -value], np.float32), "float16")


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"\0" * 8, "8 bytes, not the 4"),
        (np.array([1.0, np.nan], "<f2").tobytes(), "not all finite"),
    ],
    ids=["length", "nan"],
)
def test_bytes_of_something_else_are_refused(data: bytes, said: str) -> None:
    """A download of the wrong length, such as of float32, or with NaN in it, becomes no model."""
    with pytest.raises(PlanError, match=said):
        decode_parameters(data, count=2, storage="float16")
