"""The rotation keeps norms, can be undone, spreads what is concentrated, and is linear."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pocketfl.encoding import EncodingSpec, Rotation
from pocketfl.encoding.rotation import walsh_hadamard
from pocketfl.encoding.spec import MAX_PADDING, block_length, padded_length

lengths = st.integers(1, 3000)
seeds = st.binary(min_size=32, max_size=32)


@settings(max_examples=60, deadline=None)
@given(length=lengths, seed=seeds, noise=st.integers(0, 2**32 - 1))
def test_it_is_linear_keeps_norms_and_is_undone(length, seed, noise) -> None:
    """What the trusted tier sums rotated is, turned back, the sum of what was rotated."""
    generator = np.random.default_rng(noise)
    one, other = generator.normal(size=(2, length)) * generator.uniform(1e-9, 1e9, size=(2, 1))
    rotation = Rotation(length, seed)
    turned = rotation.apply(one)
    assert turned.shape == (rotation.padded,)
    assert np.linalg.norm(turned) == pytest.approx(np.linalg.norm(one), rel=1e-12)
    np.testing.assert_allclose(rotation.invert(turned), one, atol=1e-12 * np.linalg.norm(one))
    both = rotation.invert(turned + rotation.apply(other))
    scale = np.linalg.norm(one) + np.linalg.norm(other)
    np.testing.assert_allclose(both, one + other, atol=1e-12 * scale)


@pytest.mark.parametrize("power", range(11))
def test_the_transform_is_sylvesters(power) -> None:
    """The fast transform is multiplication by the Hadamard matrix of that order."""
    matrix = np.ones((1, 1))
    for _ in range(power):
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    rows = np.random.default_rng(power).normal(size=(3, 2**power))
    expected = rows @ matrix / np.sqrt(2**power)
    walsh_hadamard(rows)
    np.testing.assert_allclose(rows, expected, atol=1e-12)


@given(length=st.integers(1, 50_000_000))
def test_padding_is_below_two_percent(length) -> None:
    """Of any model, or one coordinate of a tiny one; blocks are powers of two that fill the vector."""
    block, padded = block_length(length), padded_length(length)
    assert block & (block - 1) == 0
    assert padded % block == 0
    assert 0 <= padded - length <= max(1, MAX_PADDING * length)
    assert padded - length < MAX_PADDING * length or padded - length <= 1


@pytest.mark.parametrize("length", [100, 1000, 5633, 50_000])
def test_whatever_is_concentrated_is_spread(length) -> None:
    """One coordinate, one layer, all alike: rotated, none has a coordinate far above the others.

    Bits hold five standard deviations; of 60 rotations none of a vector reaches 6.5 of them. A Gaussian
    in 50,176 coordinates does with probability 4e-6, so all of this together fails about once in
    1,000 runs of other seeds; the seeds are fixed.
    """
    vectors = np.zeros((3, length))
    vectors[0, length // 3] = 1.0
    vectors[1, : length // 50] = 1.0
    vectors[2] = 1.0
    for number in range(20):
        rotation = Rotation(length, bytes([number] * 32))
        for vector in vectors:
            turned = rotation.apply(vector)
            assert np.abs(turned).max() < 6.5 * np.linalg.norm(vector) / np.sqrt(turned.size)


def test_a_round_has_one_rotation_and_another_round_another() -> None:
    """Device and back end find the same one, from what both know."""
    where = {"plan_sha256": "ab" * 32, "task": "clicks", "round": 3}
    vector = np.arange(1.0, 101.0)
    turned = Rotation.of_round(100, **where).apply(vector)
    np.testing.assert_array_equal(turned, Rotation.of_round(100, **where).apply(vector))
    for change in ({"round": 4}, {"task": "views"}, {"plan_sha256": "cd" * 32}):
        assert not np.allclose(turned, Rotation.of_round(100, **{**where, **change}).apply(vector))


def test_vectors_of_another_length_are_refused() -> None:
    """A release of another plan is never turned back as if it were this one's."""
    rotation = Rotation(100, bytes(32))
    with pytest.raises(ValueError, match="100"):
        rotation.apply(np.zeros(99))
    with pytest.raises(ValueError, match=str(rotation.padded)):
        rotation.invert(np.zeros(rotation.padded + 1))


@pytest.mark.parametrize("bits", [4, 8])
@given(length=st.integers(1, 50_000_000))
def test_the_norm_bound_of_an_encoding_is_one_that_a_plan_may_have(bits, length) -> None:
    """For every size of model."""
    encoding = EncodingSpec(bits=bits)
    least, most = encoding.norm_bounds(length)
    assert least <= encoding.norm_bound(length) <= most <= 32_767


@pytest.mark.parametrize("bits", [0, 1, 3, 5, 16])
def test_other_numbers_of_bits_are_refused(bits) -> None:
    """A plan cannot ask for what this version cannot pack."""
    with pytest.raises(ValueError, match="4 or 8 bits"):
        EncodingSpec(bits=bits)
