"""The device's coin and its memory of it."""

from __future__ import annotations

import math
import os
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pocketfl.database import Database
from pocketfl.errors import PlanError, StoreError
from pocketfl.plan import AggregationSpec
from pocketfl.sampling import Participation, coin

PLAN = "a" * 64
OTHER_PLAN = "b" * 64


def make_aggregation(probability: float, cap: int = 1000) -> AggregationSpec:
    return AggregationSpec(
        clip_norm=1.0,
        sampling_probability=probability,
        population=10_000,
        cohort_floor=1,
        max_rounds=1_000_000,
        max_participations=cap,
    )


@pytest.fixture
def database(tmp_path):
    with Database(tmp_path / "device.db") as opened:
        yield opened


@pytest.mark.parametrize("probability", [0.01, 0.1, 0.5])
def test_heads_come_with_the_stated_probability(probability) -> None:
    """Over 40,000 rounds, heads deviate by less than 5.5 standard deviations (false alarm 4e-8)."""
    secret = os.urandom(32)
    rounds = 40_000
    heads = sum(
        coin(secret, task="t", round=number, manifest_sha256=PLAN) < probability
        for number in range(1, rounds + 1)
    )
    deviation = math.sqrt(rounds * probability * (1 - probability))
    assert abs(heads - rounds * probability) < 5.5 * deviation


def test_coins_of_devices_are_independent() -> None:
    """Two devices agree on heads in the same round as often as independent coins would.

    20,000 pairs at probability 0.3: both heads within 5.5 standard deviations of 0.09 (4e-8).
    """
    pairs, both = 20_000, 0
    for _ in range(pairs):
        both += all(
            coin(os.urandom(32), task="t", round=1, manifest_sha256=PLAN) < 0.3 for _ in range(2)
        )
    assert abs(both - 0.09 * pairs) < 5.5 * math.sqrt(pairs * 0.09 * 0.91)


@given(
    secret=st.binary(min_size=32, max_size=32),
    task=st.text(max_size=20),
    number=st.integers(1, 10**9),
)
def test_a_coin_is_a_function_into_the_unit_interval(secret, task, number) -> None:
    """The same round gives the same value, in [0, 1)."""
    value = coin(secret, task=task, round=number, manifest_sha256=PLAN)
    assert 0 <= value < 1
    assert value == coin(secret, task=task, round=number, manifest_sha256=PLAN)


def test_every_part_of_the_round_changes_the_coin() -> None:
    """Task, round, plan and secret all matter, and task 'a1' round 1 is not task 'a' round 11."""
    secret = bytes(32)
    values = {
        coin(secret, task="a", round=11, manifest_sha256=PLAN),
        coin(secret, task="a1", round=1, manifest_sha256=PLAN),
        coin(secret, task="a", round=1, manifest_sha256=PLAN),
        coin(secret, task="a", round=11, manifest_sha256=OTHER_PLAN),
        coin(b"\x01" * 32, task="a", round=11, manifest_sha256=PLAN),
    }
    assert len(values) == 5


def test_the_answer_survives_a_restart(tmp_path) -> None:
    """Every round keeps its answer when the file is opened again: nobody gets a second toss."""
    path, aggregation = tmp_path / "device.db", make_aggregation(0.5)

    def answers(numbers) -> list[str]:
        with Database(path) as database:
            participation = Participation(database)
            return [
                participation.toss(
                    task="t", round=n, manifest_sha256=PLAN, aggregation=aggregation
                ).state
                for n in numbers
            ]

    first = answers(range(1, 41))
    assert set(first) == {"tails", "tossed"}
    assert answers(reversed(range(1, 41))) == first[::-1]


def test_a_round_is_tossed_once(database) -> None:
    """Asking again counts nothing and says that it is not new."""
    participation = Participation(database)
    aggregation = make_aggregation(1.0)
    first = participation.toss(task="t", round=1, manifest_sha256=PLAN, aggregation=aggregation)
    again = participation.toss(task="t", round=1, manifest_sha256=PLAN, aggregation=aggregation)
    assert (first.state, first.heads, first.is_new) == ("tossed", 1, True)
    assert (again.state, again.heads, again.is_new) == ("tossed", 1, False)


def test_a_round_is_not_tossed_again_under_another_plan(database) -> None:
    """A server that announces the round anew with another plan gets an error, not another coin."""
    participation = Participation(database)
    participation.toss(task="t", round=1, manifest_sha256=PLAN, aggregation=make_aggregation(1e-9))
    with pytest.raises(PlanError, match="already tossed under the plan"):
        participation.toss(
            task="t", round=1, manifest_sha256=OTHER_PLAN, aggregation=make_aggregation(1.0)
        )
    assert participation.heads(task="t", manifest_sha256=OTHER_PLAN) == 0


def test_the_cap_counts_heads_alone(database) -> None:
    """Heads beyond the cap are refused, whether or not the earlier rounds were finished."""
    participation = Participation(database)
    aggregation = make_aggregation(1.0, cap=3)
    states = [
        participation.toss(task="t", round=n, manifest_sha256=PLAN, aggregation=aggregation).state
        for n in range(1, 7)
    ]
    assert states == ["tossed"] * 3 + ["capped"] * 3
    assert participation.heads(task="t", manifest_sha256=PLAN) == 3


def test_a_new_plan_or_a_new_task_name_does_not_reset_the_cap(database) -> None:
    """Heads count for the task across plans and for the plan across tasks."""
    participation = Participation(database)
    cap = make_aggregation(1.0, cap=2)

    def toss(task: str, number: int, plan: str) -> str:
        return participation.toss(
            task=task, round=number, manifest_sha256=plan, aggregation=cap
        ).state

    assert toss("t", 1, PLAN) == "tossed"
    assert toss("t", 2, PLAN) == "tossed"
    assert toss("t", 3, OTHER_PLAN) == "capped"
    assert toss("renamed", 1, PLAN) == "capped"
    assert toss("renamed", 2, OTHER_PLAN) == "tossed"


@settings(max_examples=25, deadline=None)
@given(
    numbers=st.lists(st.integers(1, 12), min_size=1, max_size=40),
    probability=st.sampled_from([0.2, 0.5, 0.9]),
    cap=st.integers(1, 5),
)
def test_no_order_of_announcements_beats_the_cap(
    tmp_path_factory, numbers, probability, cap
) -> None:
    """However rounds are announced, repeated or reopened, participations stay within the cap."""
    path = tmp_path_factory.mktemp("device") / "device.db"
    aggregation = make_aggregation(probability, cap=cap)
    answers: dict[int, str] = {}
    for number in numbers:
        with Database(path) as database:
            state = (
                Participation(database)
                .toss(task="t", round=number, manifest_sha256=PLAN, aggregation=aggregation)
                .state
            )
        assert answers.setdefault(number, state) == state
    assert list(answers.values()).count("tossed") <= cap


def test_a_round_only_goes_forward(database) -> None:
    """After upload or abandonment no state follows, and nothing follows tails."""
    participation = Participation(database)
    for number in (1, 2):
        participation.toss(
            task="t", round=number, manifest_sha256=PLAN, aggregation=make_aggregation(1.0)
        )
        participation.advance(task="t", round=number, state="training")
    participation.advance(task="t", round=1, state="uploaded")
    participation.advance(task="t", round=2, state="abandoned")
    participation.toss(task="t", round=3, manifest_sha256=PLAN, aggregation=make_aggregation(1e-9))
    for number, state in (
        (1, "training"),
        (1, "uploaded"),
        (2, "training"),
        (3, "training"),
        (9, "training"),
    ):
        with pytest.raises(StoreError, match="cannot become"):
            participation.advance(task="t", round=number, state=state)


def test_a_damaged_secret_is_an_error(database) -> None:
    """A coin under a wrong secret would be another coin: say so."""
    database.write_state("participation.secret", b"short")
    with pytest.raises(StoreError, match="damaged"):
        Participation(database)


def test_installs_have_different_secrets(tmp_path) -> None:
    """Two installs do not toss the same coins."""
    states = []
    for name in ("one", "two"):
        with Database(tmp_path / name) as database:
            Participation(database)
            states.append(database.read_state("participation.secret"))
    assert states[0] != states[1]
    assert all(len(secret) == 32 for secret in states)


@settings(max_examples=20, deadline=None)
@given(st.permutations(range(1, 21)), st.integers(1, 7))
def test_participations_keep_their_separation(order, separation) -> None:
    """In whatever order rounds are announced, no two participations lie closer than the plan says."""
    with Database(":memory:") as database:
        participation = Participation(database)
        taken = [
            number
            for number in order
            if participation.toss(
                task="t",
                round=number,
                manifest_sha256=PLAN,
                aggregation=make_aggregation(1.0),
                separation=separation,
            ).state
            == "tossed"
        ]
        gaps = [b - a for a, b in pairwise(sorted(taken))]
        assert all(gap >= separation for gap in gaps)
        assert participation.heads(task="t", manifest_sha256=PLAN) == len(taken)
        # A round that came too soon stays left out, and the answer is the same when asked again.
        again = participation.toss(
            task="t",
            round=order[-1],
            manifest_sha256=PLAN,
            aggregation=make_aggregation(1.0),
            separation=separation,
        )
        assert again.state == ("tossed" if order[-1] in taken else "separated")
