"""The runtimes that a plan can carry parts for, and how each is exported."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from pocketfl.plan.inference import InferenceSpec
from pocketfl.plan.manifest import RUNTIME_NAMES, RuntimeSpec
from pocketfl_export.errors import ExportError
from pocketfl_export.problem import TrainingProblem
from pocketfl_export.tracing import DecompositionTable, TracedGraphs, trace_problem

PARTS: Final = ("train", "evaluate", "predict")


@dataclass(frozen=True, kw_only=True)
class BackEnd:
    """One runtime's exporter.

    Attributes
    ----------
    name : str
        The runtime, as devices call it.
    package : str
        The package with ``decomposition_table()`` to trace with, ``export_graphs(traced) -> {"train":
        bytes, "evaluate": ..., "predict": ...}``, for finding faults ``run_graph(traced, arguments)``,
        for cards ``count_operators(part)``, and in its module ``quantization`` a function ``quantize``.
    suffix : str
        Of the parts' names.
    minimum_version : str
        Oldest version of the runtime that a plan asks for.
    opset : int or None
        ONNX operator set.
    """

    name: str
    package: str
    suffix: str
    minimum_version: str
    opset: int | None = None

    def trace(self, problem: TrainingProblem) -> TracedGraphs:
        """Trace the three graphs with this runtime's decompositions; raises as ``trace_problem``."""
        table: DecompositionTable = importlib.import_module(self.package).decomposition_table()
        return trace_problem(problem, decompositions=table)

    def export_graphs(self, traced: TracedGraphs) -> dict[str, bytes]:
        """Export what :meth:`trace` made; raises ``UnsupportedModelError`` naming what it cannot."""
        export: Callable[[TracedGraphs], dict[str, bytes]]
        export = importlib.import_module(self.package).export_graphs
        return export(traced)

    def export_parts(self, problem: TrainingProblem) -> dict[str, bytes]:
        """Trace and export the three graphs; raises as both do."""
        return self.export_graphs(self.trace(problem))

    def count_operators(self, part: bytes) -> dict[str, int]:
        """Return how often each of the runtime's operators stands in a part."""
        count: Callable[[bytes], dict[str, int]]
        count = importlib.import_module(self.package).count_operators
        return count(part)

    def part_name(self, part: str) -> str:
        """Return a part's name in the plan: ``onnxruntime/train.onnx``."""
        return f"{self.name}/{part}.{self.suffix}"

    def spec(self, *, inference: tuple[InferenceSpec, ...] | None = None) -> RuntimeSpec:
        """Return what the manifest says about this runtime."""
        train, evaluate, predict = (self.part_name(part) for part in PARTS)
        return RuntimeSpec(
            train=train,
            evaluate=evaluate,
            predict=predict,
            minimum_version=self.minimum_version,
            opset=self.opset,
            inference=inference,
        )


BACK_ENDS: Final[dict[str, BackEnd]] = {
    "onnxruntime": BackEnd(
        name="onnxruntime",
        package="pocketfl_export.onnx",
        suffix="onnx",
        minimum_version="1.22.0",
        opset=17,
    ),
    "executorch": BackEnd(
        name="executorch",
        package="pocketfl_export.executorch",
        suffix="pte",
        minimum_version="1.5.1",
    ),
}


def back_ends(names: Iterable[str]) -> tuple[BackEnd, ...]:
    """Return the back ends of these names, each once.

    Raises
    ------
    ExportError
        If a name is unknown, or there is none.
    """
    chosen = tuple(dict.fromkeys(names))
    for name in chosen:
        if name not in BACK_ENDS:
            raise ExportError(f"unknown runtime {name!r}; known: {', '.join(RUNTIME_NAMES)}")
    if not chosen:
        raise ExportError(f"name at least one runtime of {', '.join(RUNTIME_NAMES)}")
    return tuple(BACK_ENDS[name] for name in chosen)
