"""A plan's card: the modeller's text, and figures that are counted from the graphs at export."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from pocketfl.plan.card import ModelCard, PlanCard
from pocketfl_export.backends import BackEnd
from pocketfl_export.costs import batch_costs
from pocketfl_export.decompositions import onnx_table
from pocketfl_export.gate import GateResult
from pocketfl_export.problem import TrainingProblem
from pocketfl_export.tracing import trace_problem


def make_card(
    problem: TrainingProblem,
    chosen: Iterable[BackEnd],
    parts: Mapping[str, bytes],
    gate: GateResult,
    text: ModelCard | None,
) -> PlanCard:
    """Count what a plan's parts are made of and cost.

    Parameters
    ----------
    problem : TrainingProblem
        The model.
    chosen : iterable of BackEnd
        The plan's runtimes.
    parts : mapping of str to bytes
        All of their graphs, by their names in the plan.
    gate : GateResult
        Of the same problem.
    text : ModelCard or None
        The modeller's.
    """
    # Both runtimes compute the same; the table with the least rewritten operators is counted.
    table = onnx_table()
    traced = gate.traced.get("onnxruntime") or trace_problem(problem, decompositions=table)
    report = gate.report
    return PlanCard(
        text=text,
        costs=batch_costs(traced, table),
        operators={
            name: back_end.count_operators(data)
            for back_end in chosen
            for name, data in sorted(parts.items())
            if name.startswith(f"{back_end.name}/")
        },
        differences={
            name: result.max_parameter_error
            for name, result in report.runtimes.items()
            if result.max_parameter_error is not None
        },
        rounding=report.rounding,
    )
