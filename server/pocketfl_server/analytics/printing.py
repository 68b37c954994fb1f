"""A result as a table for people."""

from __future__ import annotations

from typing import Final

from rich.console import Console
from rich.table import Table

from pocketfl_server.analytics.records import TaskResult

SHOWN: Final = 8
"""Values of one query that are printed; ``--json`` has all."""


def print_result(result: TaskResult, *, console: Console | None = None) -> None:
    """Print a result: one line per query, and what it cost.

    Parameters
    ----------
    result : TaskResult
        What was released.
    console : Console, optional
        Where to; standard output by default.
    """
    table = Table(title=f"{result.kind} {result.task}, round {result.round}")
    for heading in ("query", "kind", "sum over devices", "noise (std)"):
        table.add_column(heading)
    for query in result.queries:
        shown = ", ".join(f"{value:.4g}" for value in query.values[:SHOWN])
        left = len(query.values) - SHOWN
        more = f", and {left:,} more" if left > 0 else ""
        table.add_row(query.name, query.kind, shown + more, f"{query.noise_std:.4g}")
    out = console if console is not None else Console()
    out.print(table)
    out.print(f"{result.reports:,} reports, of which those without data are zeros")
    if result.epsilon is None:
        out.print("no differential privacy")
    else:
        out.print(f"the task has spent epsilon {result.epsilon:.4g} at delta {result.delta:g}")
    budget = result.budget
    if budget is not None:
        out.print(
            f"of the budget {budget.name!r}, {budget.spent:.4g} of {budget.epsilon:g} is spent by "
            f"{sum(budget.releases.values())} releases of {len(budget.releases)} tasks, for one "
            f"{budget.unit}"
        )
