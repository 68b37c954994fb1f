"""What eager torch does, in single and in double precision: the truth that runtimes are held against.

Written with plain autograd and a Python loop over examples, so that it shares nothing with the way the
graphs are made.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pocketfl_export.batches import RandomBatch
from pocketfl_export.problem import TrainingProblem, flatten_outputs, trainable_parameters
from pocketfl_export.steps import NORM_EPSILON


@dataclass(frozen=True)
class ReferenceGradient:
    """Loss and gradient of one batch.

    Attributes
    ----------
    loss : float
        Weighted mean loss.
    gradient : Tensor
        Flat, shape (P,).
    norm : float
        L2 norm of the gradient.
    """

    loss: float
    gradient: Tensor
    norm: float

    def step(self, parameters: Tensor, *, learning_rate: float, clip_norm: float) -> Tensor:
        """Return the parameters after one step of SGD with clipping by global norm."""
        scale = min(1.0, clip_norm / (self.norm + NORM_EPSILON))
        return parameters - self.gradient * (learning_rate * scale)


class EagerReference:
    """Eager torch on a copy of the model.

    Parameters
    ----------
    problem : TrainingProblem
        The model and its loss.
    double : bool
        Whether to compute in double precision.
    """

    def __init__(self, problem: TrainingProblem, *, double: bool = False) -> None:
        self._problem = problem
        self._double = double
        self._model = copy.deepcopy(problem.model)
        self._evaluation_model = copy.deepcopy(problem.evaluation_model)
        if double:
            self._model.double()
            self._evaluation_model.double()

    def gradient(self, parameters: Tensor, batch: RandomBatch) -> ReferenceGradient:
        """Return loss and gradient at these parameters."""
        batch = self._convert(batch)
        with self._precision():
            _load(self._model, parameters)
            self._model.zero_grad(set_to_none=True)
            loss = self.weighted_loss(self._model(**batch.inputs), batch)
            loss.backward()  # type: ignore[no-untyped-call]
            pieces = [
                torch.zeros_like(p) if p.grad is None else p.grad
                for _, p in trainable_parameters(self._model)
            ]
            gradient = torch.cat([piece.reshape(-1) for piece in pieces])
            return ReferenceGradient(float(loss.detach()), gradient, float(gradient.norm()))

    def evaluate(self, parameters: Tensor, batch: RandomBatch) -> tuple[float, dict[str, Tensor]]:
        """Return loss and outputs in eval mode."""
        batch = self._convert(batch)
        with self._precision(), torch.no_grad():
            _load(self._evaluation_model, parameters)
            outputs = self._evaluation_model(**batch.inputs)
            return float(self.weighted_loss(outputs, batch)), flatten_outputs(outputs)

    def weighted_loss(self, outputs: object, batch: RandomBatch) -> Tensor:
        """Return the modeller's own mean where all weights are equal, else the weighted mean."""
        if batch.is_uniform:
            return self._problem.loss(outputs, batch.target)
        losses = example_losses(self._problem, outputs, batch.target)
        return (losses * batch.weight).sum() / batch.weight.sum()

    def _convert(self, batch: RandomBatch) -> RandomBatch:
        return batch.double() if self._double else batch

    @contextlib.contextmanager
    def _precision(self) -> Iterator[None]:
        """Let tensors that forward makes have the precision of the rest."""
        before = torch.get_default_dtype()
        torch.set_default_dtype(torch.float64 if self._double else torch.float32)
        try:
            yield
        finally:
            torch.set_default_dtype(before)


def example_losses(problem: TrainingProblem, outputs: object, target: Tensor) -> Tensor:
    """Apply the loss to one example after the other, shape (rows,)."""

    def row(index: int) -> object:
        return torch.utils._pytree.tree_map(lambda t: t[index : index + 1], outputs)

    return torch.stack(
        [problem.loss(row(i), target[i : i + 1]).reshape(()) for i in range(len(target))]
    )


def _load(model: nn.Module, parameters: Tensor) -> None:
    offset = 0
    with torch.no_grad():
        for _, parameter in trainable_parameters(model):
            piece = parameters[offset : offset + parameter.numel()]
            parameter.copy_(piece.view_as(parameter))
            offset += parameter.numel()
