"""Seeded orders: the same for ever, and fair."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pocketfl.store.selection import choose, permutation


@settings(deadline=None)
@given(st.integers(0, 200), st.integers(0, 2**64))
def test_permutation_has_every_number_once(count, seed):
    """An order leaves nothing out and repeats nothing."""
    assert sorted(permutation(count, seed=seed)) == list(range(count))


@settings(deadline=None)
@given(st.integers(0, 200), st.integers(0, 250), st.integers(0, 2**64))
def test_choice_has_different_rising_numbers(count, limit, seed):
    """A choice has exactly min(count, limit) different places, in order, all below count."""
    chosen = choose(count, limit=limit, seed=seed)
    assert len(chosen) == min(count, limit)
    assert (np.diff(chosen) > 0).all()
    assert all(0 <= place < count for place in chosen)


def test_orders_do_not_change_with_the_version():
    """These orders were written down once: a session resumed after an update sees the same."""
    assert permutation(8, seed=(7, 0, 1)).tolist() == [5, 0, 2, 6, 7, 4, 1, 3]
    assert choose(1000, limit=5, seed=42).tolist() == [58, 274, 716, 759, 943]


def test_every_place_is_chosen_equally_often():
    """Over 4,000 seeds no place's count leaves six standard deviations (false alarm below 1e-7)."""
    counts = np.zeros(20)
    for seed in range(4000):
        counts[choose(20, limit=5, seed=seed)] += 1
    expected, deviation = 4000 * 0.25, (4000 * 0.25 * 0.75) ** 0.5
    assert np.abs(counts - expected).max() < 6 * deviation


def test_seeds_give_different_orders():
    """Epochs of one seed, and neighbouring seeds, do not share their order."""
    orders = {tuple(permutation(50, seed=(1, epoch))) for epoch in range(20)}
    assert len(orders) == 20
    assert tuple(permutation(50, seed=1)) != tuple(permutation(50, seed=2))


def test_negative_seed_is_refused():
    """A seed has one spelling: it is a whole number of at least 0."""
    with pytest.raises(ValueError, match="negative"):
        permutation(3, seed=-1)
