"""Released answers to queries, kept as they were released and read in natural units."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from sqlalchemy import Connection, bindparam, func, select

from pocketfl.decoding import decode_json, encode_json
from pocketfl.plan import Manifest
from pocketfl_server.analytics.records import QueryResult, ResultSummary, TaskResult
from pocketfl_server.database import Database, results
from pocketfl_server.errors import NotFound
from pocketfl_server.trusted.releases import BudgetStatement, Release

_STATEMENT_LIMIT: Final = 1 * 2**20

_INSERT = results.insert()
_ALL = select(results).where(results.c.task == bindparam("task")).order_by(results.c.round)
_ONE = select(results).where(
    results.c.task == bindparam("task"), results.c.round == bindparam("round")
)
_COUNT = select(func.count()).where(results.c.task == bindparam("task"))


class Results:
    """Keeps the releases of tasks that ask queries.

    Parameters
    ----------
    database : Database
        Where.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def store(self, connection: Connection, release: Release, *, now: float) -> None:
        """Keep a release that was checked; in the transaction that ends its round."""
        budget = release.budget
        connection.execute(
            _INSERT,
            {
                "task": release.task,
                "round": release.round,
                "reports": release.reports,
                "released": release.values.astype("<i8", copy=False).tobytes(),
                "noise_multiplier": release.noise_multiplier or None,
                "epsilon": release.epsilon,
                "epsilon_against_back_end": release.epsilon_against_back_end,
                "delta": release.delta,
                "budget": None if budget is None else encode_json(budget).decode(),
                "created_at": now,
            },
        )

    def releases(self, connection: Connection, task: str) -> int:
        """Return how many releases a task has had."""
        return int(connection.execute(_COUNT, {"task": task}).scalar_one())

    def summaries(
        self, task: str, *, manifest: Manifest, plan_sha256: str
    ) -> tuple[ResultSummary, ...]:
        """Return every release of a task, oldest first."""
        with self._database.reading() as connection:
            rows = connection.execute(_ALL, {"task": task}).mappings().all()
        return tuple(_summary(row, manifest, plan_sha256) for row in rows)

    def get(self, task: str, number: int, *, manifest: Manifest, plan_sha256: str) -> TaskResult:
        """Return one release with its values.

        Raises
        ------
        NotFound
            With code ``unknown_result``.
        """
        with self._database.reading() as connection:
            row = connection.execute(_ONE, {"task": task, "round": number}).mappings().first()
        if row is None:
            raise NotFound(f"task {task!r} has no result of round {number}", code="unknown_result")
        queries = manifest.required_queries
        released = np.frombuffer(bytes(row["released"]), dtype="<i8").astype(np.float64)
        values = queries.split(released * manifest.aggregation.grid_step)
        sigma = (row["noise_multiplier"] or 0.0) * manifest.aggregation.clip_norm
        return TaskResult(
            **vars(_summary(row, manifest, plan_sha256)),
            queries=tuple(
                QueryResult(
                    name=query.name,
                    kind=query.kind,
                    values=tuple(values[query.name].tolist()),
                    noise_std=sigma * query.scale,
                )
                for query in queries.queries
            ),
        )


def _summary(row: Mapping[Any, Any], manifest: Manifest, plan_sha256: str) -> ResultSummary:
    return ResultSummary(
        task=row["task"],
        round=row["round"],
        kind="evaluation" if manifest.kind == "evaluation" else "analytics",
        plan_sha256=plan_sha256,
        reports=row["reports"],
        expected_cohort=manifest.aggregation.expected_cohort,
        privacy=manifest.privacy,
        noise_multiplier=row["noise_multiplier"],
        epsilon=row["epsilon"],
        epsilon_against_back_end=row["epsilon_against_back_end"],
        delta=row["delta"],
        budget=_budget(row),
        created_at=row["created_at"],
    )


def _budget(row: Mapping[Any, Any]) -> BudgetStatement | None:
    if row["budget"] is None:
        return None
    return decode_json(
        BudgetStatement, row["budget"].encode(), what="budget", limit=_STATEMENT_LIMIT
    )
