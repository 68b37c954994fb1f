"""The parts of a plan for ExecuTorch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from torch import Tensor

from pocketfl.runtimes.executorch import METHOD, load_library
from pocketfl_export.executorch.lowering import as_bytes, lower
from pocketfl_export.quiet import quiet
from pocketfl_export.tracing import TracedGraph, TracedGraphs


def export_graphs(traced: TracedGraphs) -> dict[str, bytes]:
    """Export the three graphs of a model, traced with this package's decompositions.

    Returns
    -------
    dict of str to bytes
        ``train``, ``evaluate`` and ``predict``: programs with one method, ``forward``.

    Raises
    ------
    UnsupportedModelError
        Naming what ExecuTorch does not have.
    """
    return {part: lower(graph) for part, graph in traced.items()}


def count_operators(part: bytes) -> dict[str, int]:
    """Return how often a program calls each kernel.

    A piece of the graph that XNNPACK computes is one call, of ``XnnpackBackend``.
    """
    with quiet():
        from executorch.exir._serialize._program import deserialize_pte_binary
        from executorch.exir.schema import DelegateCall, KernelCall

        program = deserialize_pte_binary(part).program
    counts: Counter[str] = Counter()
    for plan in program.execution_plan:
        for instruction in (one for chain in plan.chains for one in chain.instructions):
            call = instruction.instr_args
            if isinstance(call, KernelCall):
                counts[plan.operators[call.op_index].name] += 1
            elif isinstance(call, DelegateCall):
                counts[plan.delegates[call.delegate_index].id] += 1
    return dict(counts)


def run_graph(traced: TracedGraph, arguments: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Export one graph and run it in ExecuTorch; for finding what makes an artefact differ."""
    program_data = lower(traced)
    # Kept in variables: the method reads from the program, and the program from its bytes.
    program = load_library()._load_program_from_buffer(program_data)
    method = program.load_method(METHOD)
    return tuple(method([argument.contiguous() for argument in as_bytes(arguments)]))
