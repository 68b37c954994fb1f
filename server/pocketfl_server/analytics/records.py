"""What the back end tells its operator about answers to queries; the same in process and over HTTP."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pocketfl.plan.manifest import Privacy
from pocketfl_server.trusted.releases import BudgetStatement


@dataclass(frozen=True, kw_only=True)
class QueryResult:
    """The released sum of all devices' answers to one query.

    Attributes
    ----------
    name, kind : str
        Of the query.
    values : tuple of float
        One per coordinate, in the query's natural units: of the unit ``device`` in devices, of the unit
        ``example`` in examples.
    noise_std : float
        Standard deviation of the noise in each value; 0 without differential privacy.
    """

    name: str
    kind: str
    values: tuple[float, ...]
    noise_std: float


@dataclass(frozen=True, kw_only=True)
class ResultSummary:
    """One release of a task that asks queries.

    Attributes
    ----------
    task, round
        Which.
    kind : {"analytics", "evaluation"}
        Of the task's plan.
    plan_sha256 : str
        The plan's archive.
    reports : int
        Reports in the sum. Devices without data report too, so this is no number of people with data.
    expected_cohort : float
        How many the plan expects.
    privacy : {"gaussian", "none"}
        Of the plan.
    noise_multiplier, epsilon, epsilon_against_back_end, delta : float or None
        Of the noise, and what the task has spent with this release; None where nothing is claimed.
    budget : BudgetStatement or None
        The account that the task shares with others, with this release.
    created_at : float
        Unix time in seconds.
    """

    task: str
    round: int
    kind: Literal["analytics", "evaluation"]
    plan_sha256: str
    reports: int
    expected_cohort: float
    privacy: Privacy
    noise_multiplier: float | None = None
    epsilon: float | None = None
    epsilon_against_back_end: float | None = None
    delta: float | None = None
    budget: BudgetStatement | None = None
    created_at: float


@dataclass(frozen=True, kw_only=True)
class TaskResult(ResultSummary):
    """A release with its values.

    Attributes
    ----------
    queries : tuple of QueryResult
        In the plan's order.
    """

    queries: tuple[QueryResult, ...]

    def find(self, name: str) -> QueryResult:
        """Return one query's result, or raise ``KeyError`` with the names that there are."""
        for query in self.queries:
            if query.name == name:
                return query
        known = ", ".join(query.name for query in self.queries)
        raise KeyError(f"no query {name!r}; there are: {known}")


@dataclass(frozen=True, kw_only=True)
class ResultList:
    """All releases of a task that asks queries, oldest first, without their values."""

    results: tuple[ResultSummary, ...]
