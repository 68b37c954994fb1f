"""The tree's bound on what one device changes, against the definition and against brute force."""

from __future__ import annotations

from itertools import combinations, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pocketfl.tree_noise import nodes_of, squared_sensitivity


def covered(end: int) -> range:
    return range(end - (end & -end) + 1, end + 1)


def exact(rounds: int, participations: int, separation: int) -> int:
    """The largest sum of squares over every choice of rounds that is allowed."""
    best = 0
    for count in range(participations + 1):
        for chosen in combinations(range(1, rounds + 1), count):
            if any(b - a < separation for a, b in pairwise(chosen)):
                continue
            held = [sum(r in covered(end) for r in chosen) for end in range(1, rounds + 1)]
            best = max(best, sum(number**2 for number in held))
    return best


@given(st.integers(1, 10_000))
def test_the_nodes_of_a_prefix_cover_each_of_its_rounds_once(number) -> None:
    """Nodes make up exactly rounds 1 to n, and are at most as many as n has bits."""
    rounds = [r for end in nodes_of(number) for r in covered(end)]
    assert sorted(rounds) == list(range(1, number + 1))
    assert len(nodes_of(number)) == number.bit_count()


@pytest.mark.parametrize("rounds", [1, 2, 3, 4, 7, 8, 100, 1024])
def test_one_participation_has_the_closed_form(rounds) -> None:
    """floor(log2 n) + 1, as Kairouz et al. 2021 have it for one pass."""
    bound = squared_sensitivity(rounds=rounds, participations=1, separation=1)
    assert bound == rounds.bit_length()
    assert bound == exact(rounds, 1, 1) or rounds > 100


@pytest.mark.parametrize("participations", [1, 2, 3, 4])
@pytest.mark.parametrize("separation", [1, 2, 3, 5])
def test_the_bound_holds_for_every_allowed_choice(participations, separation) -> None:
    """Over all choices of up to four rounds of eleven, none exceeds the bound; it is near for many."""
    for rounds in range(1, 12):
        bound = squared_sensitivity(
            rounds=rounds, participations=participations, separation=separation
        )
        worst = exact(rounds, participations, separation)
        assert worst <= bound <= 2 * worst


@given(st.integers(0, 300), st.integers(0, 20), st.integers(1, 50))
def test_more_rounds_or_participations_never_cost_less(rounds, participations, separation) -> None:
    """The price grows with rounds and participations, and falls with separation."""
    bound = squared_sensitivity(rounds=rounds, participations=participations, separation=separation)
    more = {"rounds": rounds, "participations": participations, "separation": separation}
    assert squared_sensitivity(**(more | {"rounds": rounds + 1})) >= bound
    assert squared_sensitivity(**(more | {"participations": participations + 1})) >= bound
    assert squared_sensitivity(**(more | {"separation": separation + 1})) <= bound
