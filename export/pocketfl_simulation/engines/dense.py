"""Dense layers: each step of all devices as a few batched matrix products, without autograd between.

What is slow about small models on a processor is not arithmetic but memory and calls. So gradients of
weights are never written down: their norm follows from products of rows with rows (Goodfellow 2015,
"Efficient per-example gradient computations", arXiv 1510.01799, here for whole batches), and the step
goes into the product that makes the gradient.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from pocketfl.plan.training import LocalOptimizerSpec
from pocketfl.runtimes.batches import TARGET
from pocketfl.runtimes.interface import FloatVector
from pocketfl_export.problem import TrainingProblem
from pocketfl_export.steps import SMALLEST_WEIGHT, clip_factor, per_example_losses
from pocketfl_simulation.engines.interface import finite
from pocketfl_simulation.engines.layers import DenseChain, read_chain
from pocketfl_simulation.packing import PackedSteps

_AT_ONCE: Final = 2**22
"""Bytes of parameters that one thread works on: they stay in the processor's cache."""


class DenseEngine:
    """Chains of dense layers under plain SGD; parameters of all devices in one tensor a layer.

    Parameters
    ----------
    problem : TrainingProblem
        What was exported.
    chain : DenseChain
        Its model's layers.
    """

    name = "dense"
    device = "cpu"

    def __init__(self, problem: TrainingProblem, chain: DenseChain) -> None:
        self._problem = problem
        self._chain = chain
        self._shapes = [parameter.shape for parameter in problem.spec.parameters]
        self._clip_norm = torch.tensor(problem.training.max_gradient_norm)
        self.at_once = max(16, _AT_ONCE // (4 * problem.spec.parameter_count))

    @classmethod
    def of(cls, problem: TrainingProblem) -> DenseEngine | None:
        """Return the engine of a problem, None where the model or its optimizer is another."""
        training = problem.training
        if training.minimizer != LocalOptimizerSpec() or training.clipping is not None:
            return None
        chain = read_chain(problem)
        return None if chain is None else cls(problem, chain)

    def train(self, steps: PackedSteps, parameters: FloatVector) -> NDArray[np.float64]:
        """Take the n-th step of all devices together; see :class:`~.interface.Engine`."""
        # Those with most steps first: whoever has a batch left is at the front.
        order = np.argsort(-steps.counts, kind="stable")
        counts = steps.counts[order]
        starts = (np.cumsum(steps.counts) - steps.counts)[order]
        start = torch.from_numpy(parameters)
        state = [
            piece.view(shape).expand(len(counts), *shape).contiguous()
            for piece, shape in zip(
                torch.split(start, [int(np.prod(shape)) for shape in self._shapes]),
                self._shapes,
                strict=True,
            )
        ]
        for number in range(int(counts[0]) if len(counts) else 0):
            active = int(np.searchsorted(-counts, -number, side="left"))
            places = starts[:active] + number
            self._step([value[:active] for value in state], steps, places)
        updates = np.zeros((len(counts), parameters.size))
        moved = torch.cat([value.reshape(len(counts), -1) for value in state], dim=1)
        updates[order] = moved.numpy()
        updates[order] -= parameters
        return finite(updates)

    def _step(
        self, state: list[torch.Tensor], steps: PackedSteps, places: NDArray[np.int64]
    ) -> None:
        """Move D devices' parameters, each tensor of shape (D, ...), by one step."""
        rows = steps.rows[places]
        layers = self._chain.layers
        before = [_rows_of(steps.arrays[self._chain.input], rows)]
        values = before[0]
        for layer in layers:
            if layer.activation is not None:
                values = layer.activation(values)
                before.append(values)
            weight = state[layer.weight].mT
            if layer.bias is None:
                values = torch.bmm(values, weight)
            else:
                values = torch.baddbmm(state[layer.bias].unsqueeze(1), values, weight)
        gradient = self._loss_gradient(
            values, _rows_of(steps.arrays[TARGET], rows), torch.from_numpy(steps.weight[places])
        )
        gradients = [gradient]
        for number in range(len(layers) - 1, 0, -1):
            layer = layers[number]
            assert layer.slope is not None  # noqa: S101 - only the first has none
            gradient = torch.bmm(gradient, state[layer.weight]) * layer.slope(before[number])
            gradients.insert(0, gradient)
        squares = torch.zeros(len(rows))
        for layer, incoming, gradient in zip(layers, before, gradients, strict=True):
            squares += _squared_norm(incoming, gradient, with_bias=layer.bias is not None)
        factor = clip_factor(squares.sqrt(), self._clip_norm)
        factor = factor * torch.from_numpy(steps.learning_rate[places])
        for layer, incoming, gradient in zip(layers, before, gradients, strict=True):
            move = gradient * factor[:, None, None]
            state[layer.weight].baddbmm_(move.mT, incoming, alpha=-1)
            if layer.bias is not None:
                state[layer.bias].sub_(move.sum(1))

    def _loss_gradient(
        self, values: torch.Tensor, target: torch.Tensor, weight: torch.Tensor
    ) -> torch.Tensor:
        """Return the gradient of each device's mean loss by what the last layer returned."""
        rows = values.flatten(0, 1).requires_grad_()
        share = weight / weight.sum(1, keepdim=True).clamp_min(SMALLEST_WEIGHT)
        losses = per_example_losses(self._problem, self._chain.tail(rows), target.flatten(0, 1))
        (gradient,) = torch.autograd.grad(losses, rows, share.flatten())
        return gradient.view(values.shape)


def _rows_of(array: NDArray[Any], rows: NDArray[np.int64]) -> torch.Tensor:
    return torch.from_numpy(array[rows])


def _squared_norm(
    incoming: torch.Tensor, gradient: torch.Tensor, *, with_bias: bool
) -> torch.Tensor:
    """Return each device's squared norm of a layer's gradient, shape (D,).

    Parameters
    ----------
    incoming : Tensor, shape (D, B, N)
        What came into the layer.
    gradient : Tensor, shape (D, B, M)
        Of the loss, by what it returned.
    with_bias : bool
        Whether its bias counts too.
    """
    batch, width, out = *incoming.shape[1:], gradient.shape[2]
    if batch * (width + out) < width * out:
        products = torch.bmm(incoming, incoming.mT) * torch.bmm(gradient, gradient.mT)
        squares = products.flatten(1).sum(1)
    else:
        squares = torch.bmm(gradient.mT, incoming).flatten(1).square().sum(1)
    if with_bias:
        squares = squares + gradient.sum(1).square().sum(1)
    return squares
