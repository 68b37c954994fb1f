"""Packing: every vector has one encoding, and no other bytes are one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pocketfl.encoding.packing import pack, packed_size, unpack

BITS = st.sampled_from([4, 8])


@given(data=st.data(), bits=BITS)
def test_a_vector_survives_packing(data, bits) -> None:
    """Every vector on the grid comes back, from as few bytes as its bits need."""
    limit = 2 ** (bits - 1) - 1
    values = data.draw(
        hnp.arrays(np.int16, st.integers(0, 80), elements=st.integers(-limit, limit))
    )
    packed = pack(values, bits=bits)
    assert len(packed) == packed_size(values.size, bits)
    assert np.array_equal(unpack(packed, length=values.size, bits=bits), values)


@given(packed=st.binary(max_size=40), length=st.integers(0, 90), bits=BITS)
def test_hostile_bytes_are_a_packed_vector_or_refused(packed, length, bits) -> None:
    """Nothing else is accepted, least of all two encodings of one vector."""
    try:
        values = unpack(packed, length=length, bits=bits)
    except ValueError:
        return
    assert pack(values, bits=bits) == packed
    assert int(np.abs(values.astype(int)).max(initial=0)) < 2 ** (bits - 1)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("sign", [-1, 1])
def test_a_value_that_does_not_fit_is_never_wrapped(bits, sign) -> None:
    """It is refused, not turned into another one."""
    with pytest.raises(ValueError, match="bits hold"):
        pack(np.array([0, sign * 2 ** (bits - 1)], dtype=np.int16), bits=bits)


def test_the_order_of_halves_is_fixed() -> None:
    """The bytes are the documented ones on any machine."""
    assert pack(np.array([1, -2, 7], dtype=np.int16), bits=4) == bytes([0xE1, 0x07])
    with pytest.raises(ValueError, match="unused end"):
        unpack(bytes([0xE1, 0x17]), length=3, bits=4)
    with pytest.raises(ValueError, match="beyond the grid"):
        unpack(bytes([0x81]), length=2, bits=4)
