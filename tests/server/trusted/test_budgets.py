"""Tasks that share a budget compose in one account: what they spend together is what is bounded."""

# ruff: noqa: A002 - "round" is the word of the field

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from pocketfl.plan import BudgetSpec, Plan
from pocketfl_server.trusted.accounting import (
    SAMPLED_ORDERS,
    UNSAMPLED_ORDERS,
    Spending,
    budget_statement,
    composed_epsilon,
)
from pocketfl_server.trusted.aggregator import Aggregator
from pocketfl_server.trusted.ledger import Ledger
from pocketfl_server.trusted.messages import SealedEntry
from pocketfl_server.trusted.refusals import BudgetExhausted, PlanRefused

# Two releases at sigma 3 come to 2.1, three to 2.7.
BUDGET = BudgetSpec(name="person", epsilon=2.5, delta=1e-5)


@pytest.fixture
def release(
    aggregator: Aggregator, sealed_vector: Callable[..., SealedEntry]
) -> Callable[[str, int], object]:
    """Fills a round with reports and releases it."""

    def run(task: str, round: int) -> object:
        key = aggregator.describe(task).key
        entries = [
            sealed_vector([1, 2, 3], key=key, lease=f"lease-{n:012d}", task=task, round=round)
            for n in range(3)
        ]
        aggregator.submit(task, round, 0, entries)
        return aggregator.release(task, round, 0)

    return run


def test_the_release_that_would_exceed_the_account_is_refused(
    aggregator: Aggregator,
    make_plan: Callable[..., Plan],
    release: Callable[[str, int], object],
    tmp_path: Path,
    plan_keys: list[str],
) -> None:
    """One task's releases use up another's room, over restarts too; its own budget has plenty left."""
    for name in ("training", "statistics"):
        plan = make_plan(name=name, noise_multiplier=3.0, budget=BUDGET)
        aggregator.register(name, plan.data)
    aggregator.register("other", make_plan(name="other", noise_multiplier=3.0).data)
    first = release("training", 1)
    second = release("statistics", 1)
    assert first.budget.releases == {"statistics": 0, "training": 1}
    assert first.budget.spent < second.budget.spent <= BUDGET.epsilon
    with pytest.raises(BudgetExhausted, match=r"'person' to 2\.\d+, above its 2\.5") as refusal:
        release("training", 2)
    assert refusal.value.details["budget"] == "person"
    assert aggregator.describe("training").spent.epsilon < 2
    for number in range(1, 4):
        assert release("other", number).budget is None
    aggregator.close()
    with Aggregator(tmp_path / "ledger.sqlite", plan_keys=plan_keys) as again:
        account = again.describe("statistics").budget
        assert account == second.budget
        with pytest.raises(BudgetExhausted):
            again.release("training", 2, 0)


def test_an_account_composes_what_differs(make_plan: Callable[..., Plan]) -> None:
    """Sampled and unsampled releases of different noise come to what dp-accounting composes.

    Against someone who sees who took part, each task counts with its cap on participations.
    """
    import dp_accounting
    from dp_accounting import rdp

    sampled = {
        "population": 3000,
        "sampling_probability": 0.1,
        "cohort_floor": 100,
        "max_rounds": 50,
        "max_participations": 6,
    }
    training = make_plan(noise_multiplier=1.1, **sampled, budget=BUDGET).manifest
    labels = make_plan(noise_multiplier=4.0, budget=BUDGET).manifest
    statement = budget_statement({"training": (training, 40), "labels": (labels, 1)})
    relation = dp_accounting.NeighboringRelation.REPLACE_SPECIAL
    accountant = rdp.RdpAccountant(SAMPLED_ORDERS, relation)
    gaussian = dp_accounting.GaussianDpEvent
    accountant.compose(dp_accounting.PoissonSampledDpEvent(0.1, gaussian(1.1)), 40)
    accountant.compose(gaussian(4.0))
    assert statement.spent == pytest.approx(accountant.get_epsilon(1e-5), rel=1e-9)
    capped = rdp.RdpAccountant(UNSAMPLED_ORDERS, relation)
    capped.compose(gaussian(1.1), 6).compose(gaussian(4.0))
    assert statement.spent_against_back_end == pytest.approx(capped.get_epsilon(1e-5), rel=1e-9)
    assert statement.releases == {"labels": 1, "training": 40}
    # More of anything never costs less.
    alone = composed_epsilon([Spending.of(training, 40)], delta=1e-5)
    assert alone[0] < statement.spent
    assert alone[1] < statement.spent_against_back_end


def test_one_budget_has_one_bound(aggregator: Aggregator, make_plan: Callable[..., Plan]) -> None:
    """A plan that states other bounds for a known budget is refused, and leaves no trace."""
    aggregator.register("first", make_plan(name="first", budget=BUDGET).data)
    wider = BudgetSpec(name="person", epsilon=250.0, delta=1e-5)
    for _ in range(2):
        with pytest.raises(PlanRefused, match=r"epsilon 2\.5 at delta 1e-05") as refusal:
            aggregator.register("second", make_plan(name="second", budget=wider).data)
        assert refusal.value.code == "budget_conflict"
    aggregator.register("second", make_plan(name="second", budget=BUDGET).data)


def test_a_ledger_from_before_shared_budgets_is_taken_over(tmp_path: Path) -> None:
    """Opening an older ledger adds what it lacks, and keeps what it has."""
    path = tmp_path / "ledger"
    Ledger(path).close()
    with sqlite3.connect(path) as connection:
        newest = connection.execute("PRAGMA user_version").fetchone()
        for table in ("budget_tasks", "budgets", "tree_noise", "counted", "token_keys"):
            connection.execute(f"DROP TABLE {table}")
        for column in ("origin_round", "origin_version"):
            connection.execute(f"ALTER TABLE reports DROP COLUMN {column}")
        connection.execute("PRAGMA user_version=2")
    connection.close()
    with Ledger(path) as ledger:
        assert ledger.tasks_of_budget("person") == ()
    with sqlite3.connect(path) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == newest
    connection.close()
