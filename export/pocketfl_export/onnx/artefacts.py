"""The parts of a plan for ONNX Runtime."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import onnx
import torch
from torch import Tensor

from pocketfl.runtimes.onnx import load_library
from pocketfl_export.decompositions import onnx_table
from pocketfl_export.onnx.emitter import emit
from pocketfl_export.tracing import DecompositionTable, TracedGraph, TracedGraphs


def decomposition_table() -> DecompositionTable:
    """Return the table that graphs for this back end are traced with."""
    return onnx_table()


def export_graphs(traced: TracedGraphs) -> dict[str, bytes]:
    """Export the three graphs of a model, traced with :func:`decomposition_table`.

    Returns
    -------
    dict of str to bytes
        ``train``, ``evaluate`` and ``predict``: serialised ONNX models.

    Raises
    ------
    UnsupportedModelError
        Naming what has no counterpart in ONNX.
    """
    return {
        part: emit(graph, name=part).SerializeToString(deterministic=True)
        for part, graph in traced.items()
    }


def count_operators(part: bytes) -> dict[str, int]:
    """Return how often each ONNX operator stands in a graph."""
    nodes = onnx.load_from_string(part).graph.node
    return dict(Counter(node.op_type for node in nodes))


def run_graph(traced: TracedGraph, arguments: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Export one graph and run it in ONNX Runtime; for finding what makes an artefact differ."""
    library = load_library()
    options = library.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = library.InferenceSession(
        emit(traced, name="graph").SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    names = [spec.name for spec in traced.input_specs]
    feed = {name: value.numpy() for name, value in zip(names, arguments, strict=True)}
    return tuple(torch.from_numpy(output) for output in session.run(None, feed))
