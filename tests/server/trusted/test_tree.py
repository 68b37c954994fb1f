"""Releases that share a tree's noise: what is drawn, kept, taken back and charged."""

from __future__ import annotations

import math
import sqlite3
from contextlib import closing
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2

from pocketfl.plan.aggregation import TreeNoiseSpec
from pocketfl.tree_noise import nodes_of, squared_sensitivity
from pocketfl_server.trusted.accounting import spent_privacy
from pocketfl_server.trusted.aggregator import Aggregator
from pocketfl_server.trusted.refusals import BudgetExhausted
from pocketfl_server.trusted.tree import advance

ROUNDS = 10


@settings(max_examples=50)
@given(st.sets(st.integers(1, 60), min_size=1))
def test_what_was_released_so_far_has_the_noise_of_few_nodes(released) -> None:
    """Whichever rounds are released, the noise adds up to that of the nodes of the last one."""
    fresh = iter(range(1, 1000))
    kept: dict = {}
    total = np.zeros(1, dtype=np.int64)
    for number in sorted(released):
        before = set(kept)
        noise, kept = advance(
            kept, number=number, draw=lambda: np.array([3 ** (next(fresh) % 30)], dtype=np.int64)
        )
        total += noise
        assert tuple(kept) == nodes_of(number)
        assert total == sum(kept.values())
        assert set(kept) - before, "every release brings noise that was in none before"
    with pytest.raises(ValueError, match="before one"):
        advance(kept, number=max(released) - 1, draw=lambda: total) if len(
            released
        ) > 1 else advance({5: total}, number=4, draw=lambda: total)


@pytest.fixture
def tree_plan(make_plan):
    def build(**changes):
        options = {
            "tree": TreeNoiseSpec(min_separation=4),
            "max_rounds": ROUNDS,
            "max_participations": 2,
            "epsilon": 30.0,
            **changes,
        }
        return make_plan(**options)

    return build


def release_all(tier, sealed_vector, key, numbers, devices=3) -> list[np.ndarray]:
    values = []
    for number in numbers:
        tier.submit(
            "clicks",
            number,
            number - 1,
            [
                sealed_vector(
                    [number, 2, 3],
                    key=key,
                    lease=f"lease-{number}-{device:08d}",
                    round=number,
                    model_version=number - 1,
                )
                for device in range(devices)
            ],
        )
        values.append(tier.release("clicks", number, number - 1).values)
    return values


def test_noise_is_taken_back_over_restarts(tmp_path, plan_keys, tree_plan, sealed_vector) -> None:
    """With a process for each release: all releases minus the exact sums are the nodes on record."""
    plan = tree_plan()
    path = tmp_path / "ledger.db"
    total = np.zeros(3, dtype=np.int64)
    for number in range(1, 8):
        with Aggregator(path, plan_keys=plan_keys) as tier:
            key = tier.register("clicks", plan.data)
            (values,) = release_all(tier, sealed_vector, key, [number])
            # A retry, also after the tree has moved on, gives the same bytes.
            assert (tier.release("clicks", number, number - 1).values == values).all()
        total += values - 3 * np.array([number, 2, 3])
        with closing(sqlite3.connect(path)) as connection:
            rows = dict(connection.execute("SELECT node, noise FROM tree_noise").fetchall())
        assert tuple(rows) == nodes_of(number)
        kept = sum(np.frombuffer(noise, dtype="<i8") for noise in rows.values())
        assert (total == kept).all()


def test_an_abandoned_round_counts_without_noise_of_its_own(
    tmp_path, plan_keys, tree_plan, sealed_vector
) -> None:
    """After rounds that were given up the tree goes on with the nodes that they would have ended."""
    with Aggregator(tmp_path / "ledger.db", plan_keys=plan_keys) as tier:
        key = tier.register("clicks", tree_plan().data)
        release_all(tier, sealed_vector, key, [1])
        tier.abandon("clicks", 2)
        tier.abandon("clicks", 3)
        release_all(tier, sealed_vector, key, [4, 5])
        assert tier.describe("clicks").spent.releases == 5


def test_the_noise_of_a_node_is_the_calibrated_one(tmp_path, plan_keys, tree_plan, sealed_vector):
    """The first round of 300 tasks: chi-squared with 900 degrees of freedom, false alarm 1e-6."""
    squares = 0.0
    with Aggregator(tmp_path / "ledger.db", plan_keys=plan_keys) as tier:
        for index in range(300):
            name = f"task-{index}"
            key = tier.register(name, tree_plan(name=name).data)
            seal = partial(sealed_vector, [1, 2, 3], key=key, task=name)
            tier.submit(name, 1, 0, [seal(lease=f"lease-0000-{d:08d}") for d in range(3)])
            noise = tier.release(name, 1, 0).values - 3 * np.array([1, 2, 3])
            squares += float(np.square(noise / 1000.0).sum())
    low, high = chi2.ppf([5e-7, 1 - 5e-7], 900)
    assert low < squares < high


def test_the_price_is_that_of_one_gaussian_with_the_closed_form(make_plan, tree_plan) -> None:
    """One participation in n rounds costs what floor(log2 n) + 1 unsampled Gaussians cost."""
    manifest = tree_plan(max_participations=1).manifest
    for rounds in (1, 2, 5, 10):
        statement = spent_privacy(manifest, rounds)
        levels = rounds.bit_length()
        plain = make_plan(max_rounds=levels, max_participations=levels).manifest
        assert statement.epsilon == pytest.approx(spent_privacy(plain, levels).epsilon, rel=1e-12)
        assert statement.epsilon == statement.epsilon_against_back_end
    # Without separation two participations may share every node of a level: four times the price.
    close = tree_plan(tree=TreeNoiseSpec(min_separation=1)).manifest
    apart = tree_plan(tree=TreeNoiseSpec(min_separation=8)).manifest
    assert spent_privacy(close, ROUNDS).epsilon > spent_privacy(apart, ROUNDS).epsilon


def test_rounds_end_where_the_plan_says(tmp_path, plan_keys, tree_plan, sealed_vector) -> None:
    """Skipping rounds does not lengthen the tree: its price is by the rounds' numbers."""
    with Aggregator(tmp_path / "ledger.db", plan_keys=plan_keys) as tier:
        key = tier.register("clicks", tree_plan().data)
        release_all(tier, sealed_vector, key, [ROUNDS])
        with pytest.raises(BudgetExhausted, match="all are used"):
            release_all(tier, sealed_vector, key, [ROUNDS + 1])


def test_what_a_device_counts_for_itself_covers_the_trees_price(tree_plan) -> None:
    """Its participations together come to no less than the tier charges for all rounds."""
    for separation in (1, 2, 4, 8):
        for participations in (1, 2, 5):
            manifest = tree_plan(
                tree=TreeNoiseSpec(min_separation=separation), max_participations=participations
            ).manifest
            multiplier = manifest.contribution_noise_multiplier
            counted = participations / multiplier**2
            bound = squared_sensitivity(
                rounds=ROUNDS, participations=participations, separation=separation
            )
            assert counted >= bound / manifest.dp.noise_multiplier**2 * (1 - 1e-12)
            assert math.isfinite(multiplier)


def test_only_training_shares_noise(tree_plan) -> None:
    """A plan without a tree keeps its bytes; one with a tree says so and has another policy."""
    plain, tree = tree_plan(tree=None).manifest, tree_plan().manifest
    assert b"tree" not in plain.to_json()
    assert plain.policy_hash != tree.policy_hash
