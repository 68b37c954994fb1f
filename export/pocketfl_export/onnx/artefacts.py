"""The parts of a plan for ONNX Runtime."""

from __future__ import annotations

from pocketfl_export.decompositions import onnx_table
from pocketfl_export.onnx.emitter import emit
from pocketfl_export.problem import TrainingProblem
from pocketfl_export.tracing import trace_problem


def export_parts(problem: TrainingProblem) -> dict[str, bytes]:
    """Export the three graphs of a model.

    Returns
    -------
    dict of str to bytes
        ``train``, ``evaluate`` and ``predict``: serialised ONNX models.

    Raises
    ------
    UnsupportedModelError
        Naming what has no counterpart in ONNX.
    """
    traced = trace_problem(problem, decompositions=onnx_table())
    return {
        part: emit(graph, name=part).SerializeToString(deterministic=True)
        for part, graph in traced.items()
    }
