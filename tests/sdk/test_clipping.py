"""Properties of clipping and rounding to the plan's grid."""

from __future__ import annotations

import dataclasses
import math
import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pocketfl.clipping import (
    MAX_ROUNDINGS,
    clip_to_grid,
    is_within_bound,
    rounding_limit,
    squared_norm,
)
from pocketfl.encoding import EncodingSpec, Rotation
from pocketfl.errors import ReportError
from pocketfl.plan import AggregationSpec


def make_spec(*, clip_norm: float = 0.5, norm_bound: int = 30_000) -> AggregationSpec:
    return AggregationSpec(
        clip_norm=clip_norm,
        norm_bound=norm_bound,
        population=10,
        cohort_floor=1,
        max_rounds=5,
        max_participations=5,
    )


updates = st.one_of(
    hnp.arrays(
        np.float32,
        st.integers(1, 400),
        elements=st.floats(width=32, allow_nan=False, allow_infinity=False),
    ),
    hnp.arrays(
        np.float64, st.integers(1, 400), elements=st.floats(allow_nan=False, allow_infinity=False)
    ),
    hnp.arrays(np.float32, st.integers(1, 400), elements=st.floats(-1, 1, width=32)),
)


@settings(max_examples=300, deadline=None)
@given(
    update=updates,
    clip_norm=st.floats(1e-6, 1e6),
    norm_bound=st.integers(256, 32_767),
)
def test_integer_norm_never_exceeds_the_bound(update, clip_norm, norm_bound) -> None:
    """Whatever the update, from subnormal to 1e308: the exact integer norm is within the bound."""
    spec = make_spec(clip_norm=clip_norm, norm_bound=norm_bound)
    values = clip_to_grid(update, spec)
    assert values.dtype == np.int16
    assert values.shape == update.shape
    assert sum(int(v) ** 2 for v in values) <= norm_bound**2


@pytest.mark.parametrize("length", [1, 7, 5_000, 200_000])
@pytest.mark.parametrize("norm_bound", [256, 30_000, 32_767])
def test_adversarial_random_bits_cannot_break_the_bound(length, norm_bound) -> None:
    """Even when every draw rounds away from zero, the result is within the bound."""
    spec = make_spec(norm_bound=norm_bound)
    update = np.full(length, 3.0, dtype=np.float32)
    draws = 0

    def always_up(count: int) -> bytes:
        nonlocal draws
        draws += 1
        return bytes(count)

    assert is_within_bound(clip_to_grid(update, spec, random=always_up), spec)
    assert is_within_bound(clip_to_grid(-update, spec, random=lambda n: b"\xff" * n), spec)
    assert 1 <= draws <= MAX_ROUNDINGS


def test_draws_that_never_fit_end_in_rounding_toward_zero() -> None:
    """When each draw lands above the bound, the fallback truncates, and is still within it."""
    spec = make_spec(norm_bound=256)
    update = np.full(200_000, 1.0)
    draws = 0

    def always_up(count: int) -> bytes:
        nonlocal draws
        draws += 1
        return bytes(count)

    values = clip_to_grid(update, spec, random=always_up)
    assert draws == MAX_ROUNDINGS
    assert not values.any()  # each coordinate was below one unit


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_zero_stays_zero(dtype) -> None:
    """A device that learnt nothing reports exactly nothing."""
    assert not clip_to_grid(np.zeros(1000, dtype=dtype), make_spec()).any()


def test_zero_coordinates_stay_zero() -> None:
    """A coordinate that did not move is never rounded away from zero."""
    update = np.zeros(2000)
    update[:10] = 0.01
    for _ in range(20):
        assert not clip_to_grid(update, make_spec())[10:].any()


def test_an_update_below_the_clip_norm_is_not_scaled() -> None:
    """Within the norm, each coordinate lands on one of its two neighbours on the grid."""
    spec = make_spec()
    update = np.random.default_rng(1).normal(size=500)
    update *= 0.4 * spec.clip_norm / np.linalg.norm(update)
    values = clip_to_grid(update, spec)
    assert np.abs(values - update / spec.grid_step).max() < 1.0


@pytest.mark.parametrize("size", [1e-30, 1e-5, 1.0, 1e30])
def test_a_large_update_keeps_its_direction(size) -> None:
    """Above the norm, the update is scaled to just below the bound and points the same way."""
    spec = make_spec(clip_norm=1e-32)
    update = (np.random.default_rng(2).normal(size=500) * size).astype(np.float32)
    values = clip_to_grid(update, spec).astype(np.float64)
    norm = math.sqrt(squared_norm(values.astype(np.int64)))
    assert 0.9997 * spec.norm_bound < norm <= spec.norm_bound
    exact = update.astype(np.float64)
    assert values @ exact / (norm * np.linalg.norm(exact)) > 0.99999


def test_tiny_updates_survive_in_expectation() -> None:
    """Coordinates far below one unit are not lost: their mean over many devices is right.

    Each coordinate is Bernoulli(0.01); over 400,000 of them the mean deviates by more than 5.5 standard
    deviations with probability 4e-8 (two-sided).
    """
    spec = make_spec()
    update = np.full(400_000, 0.01 * spec.grid_step)
    values = clip_to_grid(update, spec)
    assert set(np.unique(values)) <= {0, 1}
    deviation = math.sqrt(0.01 * 0.99 / update.size)
    assert abs(values.mean() - 0.01) < 5.5 * deviation


def test_rounding_is_unbiased() -> None:
    """The mean of many roundings is the update itself, in every coordinate.

    2,000 roundings of 200 coordinates: a coordinate's mean has standard deviation at most
    0.5 / sqrt(2000). By Hoeffding, one of 200 deviates by more than 6 of these with probability below
    200 * 2 * exp(-18) = 6e-6.
    """
    spec = make_spec()
    update = np.random.default_rng(3).normal(size=200) * 20.3 * spec.grid_step
    total = np.zeros(200)
    for _ in range(2000):
        total += clip_to_grid(update, spec)
    error = total / 2000 - update / spec.grid_step
    assert np.abs(error).max() < 6 * 0.5 / math.sqrt(2000)
    # The probability of rounding up really varies with the fraction.
    assert np.abs(update / spec.grid_step - np.round(update / spec.grid_step)).max() > 0.4


def test_clipped_updates_are_hardly_ever_drawn_twice() -> None:
    """The margin below the bound makes a second draw rare: none in 300 (expected 3e-6)."""
    spec = make_spec()
    update = np.random.default_rng(4).normal(size=5000)
    draws = 0

    def counted(count: int) -> bytes:
        nonlocal draws
        draws += 1
        return os.urandom(count)

    for _ in range(300):
        clip_to_grid(update, spec, random=counted)
    assert draws == 300
    assert rounding_limit(5000, 30_000) > 0.9998 * 30_000


@given(length=st.integers(1, 50_000_000), norm_bound=st.integers(256, 32_767))
def test_the_limit_lies_strictly_between_zero_and_the_bound(length, norm_bound) -> None:
    """For every plan that may exist there is room to report, below the bound."""
    assert 0 < rounding_limit(length, norm_bound) < norm_bound - 2


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused(bad) -> None:
    """One NaN or infinity is an error that says so, not a report."""
    update = np.ones(10, dtype=np.float32)
    update[3] = bad
    with pytest.raises(ReportError, match="1 values that are not finite"):
        clip_to_grid(update, make_spec())


@pytest.mark.parametrize(
    "update",
    [np.zeros((2, 2)), np.zeros(0), np.ones(3, dtype=np.int64), np.ones(3, dtype=np.complex64)],
)
def test_what_is_no_vector_of_floats_is_refused(update) -> None:
    """Shape and type are checked before anything is computed."""
    with pytest.raises(ReportError, match="vector of floats"):
        clip_to_grid(update, make_spec())


def test_squared_norm_is_exact_beyond_float_precision() -> None:
    """One unit more or less in 9e8 is seen, where float32 would not."""
    values = np.array([30_000, 1], dtype=np.int16)
    assert squared_norm(values) == 900_000_001
    assert not is_within_bound(values, make_spec())
    assert is_within_bound(values[:1], make_spec())


def encoded_spec(parameters: int, *, bits: int = 4, clip_norm: float = 0.5) -> AggregationSpec:
    return make_spec(clip_norm=clip_norm).encoded(EncodingSpec(bits=bits), parameters=parameters)


@settings(max_examples=200, deadline=None)
@given(
    update=updates,
    clip_norm=st.floats(1e-6, 1e6),
    bits=st.sampled_from([4, 8]),
    seed=st.binary(min_size=32, max_size=32),
    coarseness=st.floats(0.0, 1.0),
)
def test_an_encoded_report_is_within_its_bound_and_its_bits(
    update, clip_norm, bits, seed, coarseness
) -> None:
    """Whatever the update, and whichever bound the manifest lets a plan have."""
    encoding = EncodingSpec(bits=bits)
    least, most = encoding.norm_bounds(update.size)
    bound = least + int(coarseness * (most - least))
    base = make_spec(clip_norm=clip_norm).encoded(encoding, parameters=update.size)
    rotation = Rotation(update.size, seed)
    for spec in (base, dataclasses.replace(base, norm_bound=max(1, bound))):
        values = clip_to_grid(update, spec, rotation=rotation)
        assert values.shape == (rotation.padded,)
        assert int(np.abs(values).max()) <= encoding.limit
        assert sum(int(v) ** 2 for v in values) <= spec.norm_bound**2


def test_adversarial_random_bits_cannot_break_an_encoded_bound() -> None:
    """Even when every draw rounds the same way, the result is within bound and bits."""
    update = np.random.default_rng(4).normal(size=5_000)
    spec, rotation = encoded_spec(5_000), Rotation(5_000, bytes(32))
    for stuck in (b"\0", b"\xff"):
        values = clip_to_grid(update, spec, rotation=rotation, random=lambda n, b=stuck: b * n)
        assert is_within_bound(values, spec)
        assert np.abs(values).max() <= 7


@pytest.mark.parametrize("size", [0.3, 40.0])
@pytest.mark.parametrize("shape", ["dense", "one layer", "one coordinate"])
def test_encoded_rounding_is_unbiased(size, shape) -> None:
    """The mean of many reports, turned back, is the update (below the clip norm) or points its way.

    400 reports of 2,000 parameters. The error of the mean's coordinates is a sum of bounded independent
    terms, of standard deviation at most half a unit / sqrt(400); that one of 2,000 exceeds 6.5 of these
    has probability below 2000 * 2 * exp(-6.5**2 / 2) = 3e-6. What is cut off to fit the bits would
    show here if it came to 0.15 units.
    """
    spec, rotation = encoded_spec(2_000), Rotation(2_000, bytes(32))
    update = np.zeros(2_000)
    part = {"dense": slice(None), "one layer": slice(40), "one coordinate": slice(1)}[shape]
    update[part] = np.random.default_rng(5).normal(size=update[part].size)
    update *= size * spec.clip_norm / np.linalg.norm(update)
    total = np.zeros(rotation.padded)
    for _ in range(400):
        total += clip_to_grid(update, spec, rotation=rotation)
    mean = rotation.invert(total / 400)
    expected = update / spec.grid_step
    if size > 1:
        share = mean @ update / (update @ update) * spec.grid_step
        kept = share * np.linalg.norm(update) / spec.clip_norm
        assert 0.89 < kept < 1.0
        expected *= share
    assert np.abs(mean - expected).max() < 6.5 * 0.5 / math.sqrt(400)


def test_what_does_not_fit_its_bits_is_rare() -> None:
    """Of updates at the clip norm about one coordinate in a million is cut off, as documented.

    Of 100 rotations of dense and of sparse updates, 5 million coordinates, about 2 are above 7 units,
    which are 5.06 standard deviations; more than 20 (Poisson) with probability below 1e-12.
    """
    spec = encoded_spec(50_000)
    cut = 0
    for number in range(100):
        generator = np.random.default_rng(number)
        update = generator.normal(size=50_000)
        if number % 2:
            update[generator.random(50_000) < 0.95] = 0.0
        update *= rounding_limit(50_176, spec.norm_bound) / np.linalg.norm(update)
        rotated = Rotation(50_000, bytes([number] * 32)).apply(update)
        cut += int(np.count_nonzero(np.abs(rotated) > 7))
    assert cut <= 20


def test_a_rotation_goes_with_an_encoding() -> None:
    """Neither is ever left out by mistake: sums of both kinds would be nonsense."""
    with pytest.raises(ReportError, match="goes with"):
        clip_to_grid(np.ones(5), make_spec(), rotation=Rotation(5, bytes(32)))
    with pytest.raises(ReportError, match="goes with"):
        clip_to_grid(np.ones(5), encoded_spec(5))
