"""From a traced graph to the bytes of an ExecuTorch program."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from unittest import mock

import torch
from torch import fx

from pocketfl.runtimes.executorch import load_library
from pocketfl_export.errors import UnsupportedModelError
from pocketfl_export.executorch.preparation import prepare, take_bytes_for_booleans
from pocketfl_export.quiet import quiet
from pocketfl_export.rewrites import rewrite_for
from pocketfl_export.tracing import TracedGraph


def lower(traced: TracedGraph, *, delegate: bool = True) -> bytes:
    """Compile a graph to a program whose method ``forward`` takes the graph's inputs by position.

    Booleans come in as bytes.

    Parameters
    ----------
    traced : TracedGraph
        Traced with :func:`pocketfl_export.executorch.decomposition_table`.
    delegate : bool
        Hand what XNNPACK can compute to it; otherwise the portable kernels compute everything, which
        is far slower and helps to find out whose fault a difference is.

    Returns
    -------
    bytes
        The ``.pte`` program; it holds no parameters, no stack traces and no paths.

    Raises
    ------
    UnsupportedModelError
        Naming the operator that ExecuTorch does not have.
    """
    library = load_library()
    with quiet():
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
        from executorch.exir import EdgeCompileConfig, to_edge

        graph_module = take_bytes_for_booleans(prepare(traced.graph_module))
        program = torch.export.export(graph_module, as_bytes(traced.example), strict=False)
        _forget_history(program.graph_module)
        # The graph is in core ATen by construction and the gate runs what comes out; the verifier
        # would check every node again after each of some hundred passes.
        edge = to_edge(program, compile_config=EdgeCompileConfig(_check_ir_validity=False))
        _forget_history(edge.exported_program().graph_module)
        if delegate:
            with _passes_that_apply():
                edge = edge.to_backend(
                    XnnpackPartitioner(force_non_static_weights_for_f32_linear=True)
                )
        kernels = frozenset(library._get_operator_names())
        _refuse_missing_kernels(edge.exported_program().graph_module, kernels)
        return bytes(edge.to_executorch().buffer)


def as_bytes(arguments: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    """Return a graph's arguments as its program takes them."""
    return tuple(a.to(torch.uint8) if a.dtype == torch.bool else a for a in arguments)


def _forget_history(graph_module: fx.GraphModule) -> None:
    """Drop each node's record of the nodes it came from.

    Every pass copies that record and appends to it, which in the end is a good part of the work.
    """
    for node in graph_module.graph.nodes:
        node.meta.pop("from_node", None)


def _refuse_missing_kernels(graph_module: fx.GraphModule, kernels: frozenset[str]) -> None:
    """Refuse what XNNPACK left to portable kernels that do not exist.

    Raises
    ------
    UnsupportedModelError
        Naming the operator.
    """
    from executorch.exir.dialects.edge._ops import EdgeOpOverload

    for node in graph_module.graph.nodes:
        operator = node.target
        if not isinstance(operator, EdgeOpOverload):  # A delegate, or a piece of a tuple.
            continue
        try:
            schema = operator.to_out_variant()._schema
        except RuntimeError:
            known = False
        else:
            overload = f".{schema.overload_name}" if schema.overload_name else ""
            known = f"{schema.name}{overload}" in kernels
        if not known:
            raise UnsupportedModelError(
                operator=str(operator._op),
                rewrite=rewrite_for(str(operator._op)),
                reason="ExecuTorch has no kernel for it",
                runtime="executorch",
            )


@contextlib.contextmanager
def _passes_that_apply() -> Iterator[None]:
    """Run those of XNNPACK's passes that can change a graph of ours.

    Each of the seventeen retraces every delegated piece, together half the time of an export. Ours have
    no convolution, normalisation, attention, quantisation, resize or PReLU left for the others.
    """
    from executorch.backends.transforms.remove_getitem_op import RemoveGetItemPass
    from executorch.backends.xnnpack import _passes, xnnpack_preprocess
    from executorch.exir.passes.memory_format_ops_pass import DimOrderOpsRevertPass

    chosen = [
        _passes.XNNPACKRemoveCloneOpsTransform,
        DimOrderOpsRevertPass,
        _passes.ConvertToLinearPass,
        _passes.FuseActivationPass,
        _passes.DecomposeConcatenate,
        RemoveGetItemPass,
        _passes.ChannelsLastTaggedReshapePass,
        _passes.RemoveRedundantCopyPass,
    ]
    with mock.patch.object(
        xnnpack_preprocess,
        "XNNPACKPassManager",
        lambda program, passes=None: _passes.XNNPACKPassManager(program, passes or chosen),
    ):
        yield
