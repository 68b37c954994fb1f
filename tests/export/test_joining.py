"""Unrolled loops: sums of products become one product, and nothing else changes."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from pocketfl_export.decompositions import onnx_table
from pocketfl_export.problem import make_problem
from pocketfl_export.tracing import example_arguments, trace, trace_problem

aten = torch.ops.aten


class Recurrent(nn.Module):
    """The last state of a recurrent net of some steps."""

    def __init__(self, kind: type[nn.RNNBase], steps: int) -> None:
        super().__init__()
        self.steps, self.net, self.head = steps, kind(3, 4, batch_first=True), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        states, _ = self.net(x)
        result: Tensor = self.head(states[:, -1])
        return result


@pytest.mark.parametrize("kind", [nn.GRU, nn.LSTM, nn.RNN], ids=lambda kind: kind.__name__)
def test_a_steps_weight_gradients_are_one_product(kind: type[nn.RNNBase]) -> None:
    """A further step costs two products at most: of the forward pass and of its state's gradient."""
    counts = []
    for steps in (4, 8):
        torch.manual_seed(0)
        problem = make_problem(
            Recurrent(kind, steps), F.cross_entropy, torch.randn(5, steps, 3), torch.arange(5) % 2
        )
        traced = trace_problem(problem, decompositions=onnx_table()).train
        nodes = traced.graph_module.graph.nodes
        counts.append(sum(n.target in (aten.mm.default, aten.addmm.default) for n in nodes))
        arguments = example_arguments(problem)
        parameters, loss, norm = traced.graph_module(*arguments)
        reference = Recurrent(kind, steps)
        reference.load_state_dict(problem.model.state_dict())
        expected = F.cross_entropy(reference(problem.inputs["x"]), problem.target)
        torch.testing.assert_close(loss, expected)
        gradients = torch.autograd.grad(expected, list(reference.parameters()))
        flat = torch.cat([g.reshape(-1) for g in gradients])
        torch.testing.assert_close(norm, flat.norm())
        before = arguments[0]
        torch.testing.assert_close(
            parameters, before - 0.1 * flat * (1 / (flat.norm() + 1e-6)).clamp_max(1)
        )
    assert counts[1] - counts[0] <= 2 * 4


def test_terms_that_are_used_elsewhere_or_differ_stay() -> None:
    """Alike products are joined, also of different length; a sum of two sums stays right."""

    def function(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        kept = a.t() @ b
        total = a.t() @ a + b.t() @ b + kept + (a * b).t() @ b + a[:2].t() @ a[:2]
        return total, kept + a.sum(0) + b.sum(0) + (a * b).sum(0)

    arguments = tuple(torch.randn(4, 3, dtype=torch.float64) for _ in range(2))
    graph = trace(function, arguments, decompositions=onnx_table())
    for found, expected in zip(graph(*arguments), function(*arguments), strict=True):
        torch.testing.assert_close(found, expected)
    products = [n for n in graph.graph.nodes if n.target is aten.mm.default]
    assert len(products) == 2  # The one that is used twice, and all the others.


@pytest.mark.parametrize("index", [0, 2, -1])
def test_one_step_of_a_padded_sequence_is_zeros_or_the_step(index: int) -> None:
    """Reading from a padded tensor skips the padding, also behind a permutation."""

    def function(x: Tensor) -> tuple[Tensor, Tensor]:
        padded = F.pad(x.unsqueeze(1), (0, 0, 2, 0))  # [rows, 3 steps, width]
        return padded.select(1, index) * 2, padded.permute(1, 0, 2).select(0, index) * 3

    x = torch.randn(4, 5)
    graph = trace(function, (x,), decompositions=onnx_table())
    for found, expected in zip(graph(x), function(x), strict=True):
        torch.testing.assert_close(found, expected)
    assert not any(n.target is aten.constant_pad_nd.default for n in graph.graph.nodes)
