"""From a model and its loss to three cleaned-up ATen graphs: train, evaluate, predict.

Each graph is a pure function with static shapes. ``make_fx`` records the step together with its
backward pass; ``torch.export`` cannot (it refuses the views that ``torch.func`` makes). Kernels that
exist only in torch's CPU build (MKL-DNN, flash attention, fused transformer layers) are switched off
while tracing.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.attention import SDPBackend, sdpa_kernel

from pocketfl.plan.models import TensorSpec
from pocketfl.runtimes.optimizers import BIAS_CORRECTION, state_arrays, updated_arrays
from pocketfl_export import randomness
from pocketfl_export.problem import (
    DTYPES,
    ExampleInputs,
    Loss,
    TrainingProblem,
    make_problem,
)
from pocketfl_export.randomness import RandomNumbers
from pocketfl_export.refusals import (
    explain_tracing_failure,
    refuse_data_dependent_values,
    refuse_random_operators,
)
from pocketfl_export.scopes import Replay, follow_modules
from pocketfl_export.simplification import simplify
from pocketfl_export.steps import Function, evaluation, prediction, train_inputs, train_step
from pocketfl_export.substitutions import Substitutions

DecompositionTable = Mapping[Any, Callable[..., Any]]


@dataclass(frozen=True)
class TracedGraph:
    """One graph and the names of what goes in and out, in order.

    Attributes
    ----------
    graph_module : torch.fx.GraphModule
        ATen operators only; placeholders are the inputs in order, constants are ``get_attr`` nodes.
    input_specs, output_specs : tuple of TensorSpec
        Whole shapes (with the batch axis); scalars have shape ``()``.
    example : tuple of Tensor
        Arguments with which the graph was traced.
    """

    graph_module: fx.GraphModule
    input_specs: tuple[TensorSpec, ...]
    output_specs: tuple[TensorSpec, ...]
    example: tuple[torch.Tensor, ...]


@dataclass(frozen=True)
class TracedGraphs:
    """The three graphs of one model, and the problem that they came from."""

    problem: TrainingProblem
    train: TracedGraph
    evaluate: TracedGraph
    predict: TracedGraph

    def items(self) -> tuple[tuple[str, TracedGraph], ...]:
        """Return (part name, graph) for each."""
        return ("train", self.train), ("evaluate", self.evaluate), ("predict", self.predict)


def trace_graphs(
    model: torch.nn.Module,
    loss: Loss,
    example_inputs: ExampleInputs,
    example_target: torch.Tensor,
    *,
    decompositions: DecompositionTable,
) -> TracedGraphs:
    """Trace a model that was not checked yet; see :func:`trace_problem`."""
    problem = make_problem(model, loss, example_inputs, example_target)
    return trace_problem(problem, decompositions=decompositions)


def trace_problem(problem: TrainingProblem, *, decompositions: DecompositionTable) -> TracedGraphs:
    """Trace the training step, the evaluation and the prediction.

    Parameters
    ----------
    problem : TrainingProblem
        From :func:`pocketfl_export.problem.make_problem`.
    decompositions : mapping
        ATen operator to a function that computes it from simpler ones.

    Returns
    -------
    TracedGraphs

    Raises
    ------
    UnsupportedModelError
        For control flow that depends on data, and for random operators.
    """
    parameters = problem.initial_parameters()
    inputs = tuple(problem.inputs.values())
    weight = torch.ones(problem.batch_size)
    batch_names = ("parameters", *problem.inputs)
    train_names = train_inputs(problem)
    updated = updated_arrays(problem.training.minimizer)

    def traced(
        function: Function,
        arguments: tuple[torch.Tensor, ...],
        names: tuple[str, ...],
        output_names: tuple[str, ...],
    ) -> TracedGraph:
        random = names.index("random") if "random" in names else None
        with follow_modules(problem.model, problem.evaluation_model):
            graph_module = trace(function, arguments, decompositions=decompositions, random=random)
        return TracedGraph(
            graph_module=graph_module,
            input_specs=_specs(names, arguments),
            output_specs=_specs(output_names, _output_values(graph_module)),
            example=arguments,
        )

    return TracedGraphs(
        problem=problem,
        train=traced(
            train_step(problem),
            example_arguments(problem),
            train_names,
            ("new_parameters", *(f"new_{name}" for name in updated), "loss", "gradient_norm"),
        ),
        evaluate=traced(
            evaluation(problem),
            (parameters, *inputs, problem.target, weight),
            (*batch_names, "target", "weight"),
            ("loss", *problem.output_names),
        ),
        predict=traced(
            prediction(problem), (parameters, *inputs), batch_names, problem.output_names
        ),
    )


def example_arguments(problem: TrainingProblem) -> tuple[torch.Tensor, ...]:
    """Return arguments of the training step, one for each name of ``train_inputs``."""
    values: dict[str, torch.Tensor] = {
        **problem.inputs,
        "parameters": problem.initial_parameters(),
        "target": problem.target,
        "weight": torch.ones(problem.batch_size),
        "random": torch.full((problem.batch_size, problem.spec.random_numbers or 0), 0.5),
        BIAS_CORRECTION: torch.ones(2),
        "learning_rate": torch.tensor(0.1),
        "clip_norm": torch.tensor(1.0),
    }
    for name in state_arrays(problem.training.minimizer):
        values[name] = torch.zeros(problem.spec.parameter_count)
    return tuple(values[name] for name in train_inputs(problem))


def trace(
    function: Function,
    arguments: tuple[torch.Tensor, ...],
    *,
    decompositions: DecompositionTable,
    random: int | None = None,
) -> fx.GraphModule:
    """Record a pure function of tensors as a graph of ATen operators, simplified.

    Parameters
    ----------
    function : callable
        What to record.
    arguments : tuple of Tensor
        Example arguments.
    decompositions : mapping
        ATen operator to a function that computes it from simpler ones.
    random : int, optional
        Which argument holds the random numbers that dropout takes, shape (rows, n).

    Raises
    ------
    UnsupportedModelError
        For control flow that depends on data, and for random operators.
    """
    # The same tensor given twice would be recorded as one input.
    arguments = tuple(a.detach().clone() for a in arguments)
    with portable_kernels(), explain_tracing_failure():
        graph_module = _record(function, arguments, decompositions, random)
        if _changes_in_place(graph_module):
            # Kernels that torch composes of others (its recurrent cells) change their intermediate
            # results in place, below the level at which the first pass sees them.
            graph_module = _record(Replay(graph_module).run, arguments, decompositions)
    refuse_data_dependent_values(graph_module)
    refuse_random_operators(graph_module)
    return simplify(graph_module)


def _record(
    function: Callable[..., Any],
    arguments: tuple[torch.Tensor, ...],
    decompositions: DecompositionTable,
    random: int | None = None,
) -> fx.GraphModule:
    functional = torch.func.functionalize(function, remove="mutations")
    table = dict(decompositions)
    numbers = None
    if random is not None:
        numbers = RandomNumbers(len(arguments[random]))
        table.update(randomness.decompositions(numbers))

    def recorded(*values: torch.Tensor) -> Any:
        if random is not None and numbers is not None:
            # Here the values are those that the tracer follows, before any transform wraps them.
            numbers.start(values[random])
        return functional(*values)

    return make_fx(
        recorded,
        decomposition_table=table,
        tracing_mode="fake",
        _allow_non_fake_inputs=True,
    )(*arguments)


def _changes_in_place(graph_module: fx.GraphModule) -> bool:
    return any(
        isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable
        for node in graph_module.graph.nodes
    )


@contextlib.contextmanager
def portable_kernels() -> Iterator[None]:
    """Within this context torch takes none of the kernels that exist only in its build for desktops."""
    fast_path = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with warnings.catch_warnings():
            # Switching MKL-DNN off makes torch remark on what Intel GPUs could do.
            warnings.simplefilter("ignore", UserWarning)
            with (
                torch.backends.mkldnn.flags(enabled=False),
                sdpa_kernel(SDPBackend.MATH),
                Substitutions(),
            ):
                yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)


def _output_values(graph_module: fx.GraphModule) -> tuple[torch.Tensor, ...]:
    output = next(node for node in graph_module.graph.nodes if node.op == "output")
    return tuple(node.meta["val"] for node in output.args[0])


def _specs(names: tuple[str, ...], values: tuple[torch.Tensor, ...]) -> tuple[TensorSpec, ...]:
    return tuple(
        TensorSpec(name=name, dtype=DTYPES[value.dtype], shape=tuple(value.shape))
        for name, value in zip(names, values, strict=True)
    )
