"""What eager torch does, in single and in double precision: the truth that runtimes are held against.

Written with plain autograd and a Python loop over examples, so that it shares nothing with the way the
graphs are made.
"""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pocketfl.plan.training import LocalOptimizerSpec
from pocketfl.runtimes.optimizers import FIRST_MOMENT, SECOND_MOMENT, VELOCITY
from pocketfl_export.batches import RandomBatch
from pocketfl_export.problem import TrainingProblem, flatten_outputs, trainable_parameters
from pocketfl_export.randomness import random_numbers
from pocketfl_export.steps import NORM_EPSILON


@dataclass(frozen=True)
class ReferenceGradient:
    """Loss and gradient of one batch.

    Attributes
    ----------
    loss : float
        Weighted mean loss.
    rows : Tensor
        Gradients that are clipped, one per row: that of the batch, shape (1, P), or each example's,
        shape (B, P).
    share : Tensor
        Weight of each row in the step; they add up to 1.
    shift : Tensor or None
        What is added after clipping: FedProx's term, where examples are clipped.
    """

    loss: float
    rows: Tensor
    share: Tensor
    shift: Tensor | None = None

    @property
    def norm(self) -> float:
        """L2 norm before clipping; of several rows, the weighted mean."""
        return float((self.rows.norm(dim=1) * self.share).sum())

    def clipped(self, clip_norm: float) -> Tensor:
        """Return the gradient that an optimizer is given, shape (P,)."""
        factors = (clip_norm / (self.rows.norm(dim=1) + NORM_EPSILON)).clamp_max(1.0)
        gradient: Tensor = (factors * self.share) @ self.rows
        return gradient if self.shift is None else gradient + self.shift


@dataclass(frozen=True)
class Taken:
    """What a step gave.

    Attributes
    ----------
    parameters : Tensor
        The new ones, flat.
    memory : dict of str to Tensor
        What the optimizer remembers; see :mod:`pocketfl.runtimes.optimizers`.
    norm : float
        The gradient's norm before clipping.
    """

    parameters: Tensor
    memory: Mapping[str, Tensor]
    norm: float

    @property
    def is_finite(self) -> bool:
        """Whether all of it is."""
        return math.isfinite(self.norm) and all(
            bool(torch.isfinite(value).all()) for value in (self.parameters, *self.memory.values())
        )


def take_step(
    spec: LocalOptimizerSpec,
    parameters: Tensor,
    memory: Mapping[str, Tensor],
    gradient: Tensor,
    *,
    learning_rate: float,
    step: int,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Take one step of torch's own optimizer on flat vectors.

    Parameters
    ----------
    spec : LocalOptimizerSpec
        Which.
    parameters, gradient : Tensor
        Shape (P,), after clipping.
    memory : mapping of str to Tensor
        What it remembers.
    learning_rate : float
        Its learning rate.
    step : int
        How often it has stepped before.

    Returns
    -------
    parameters, memory
        New tensors.
    """
    moved = nn.Parameter(parameters.detach().clone())
    optimizer: torch.optim.Optimizer
    if spec.is_adaptive:
        kind = torch.optim.AdamW if spec.kind == "adamw" else torch.optim.Adam
        optimizer = kind(
            [moved],
            lr=learning_rate,
            betas=(spec.beta1, spec.beta2),
            eps=spec.epsilon,
            weight_decay=spec.weight_decay,
        )
        names = {"exp_avg": FIRST_MOMENT, "exp_avg_sq": SECOND_MOMENT}
        optimizer.state[moved]["step"] = torch.tensor(float(step))
    else:
        optimizer = torch.optim.SGD(
            [moved], lr=learning_rate, momentum=spec.momentum, weight_decay=spec.weight_decay
        )
        names = {"momentum_buffer": VELOCITY} if spec.momentum else {}
    for theirs, ours in names.items():
        optimizer.state[moved][theirs] = memory[ours].clone()
    moved.grad = gradient.detach().clone()
    optimizer.step()
    return moved.detach(), {ours: optimizer.state[moved][theirs] for theirs, ours in names.items()}


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

    def gradient(
        self, parameters: Tensor, batch: RandomBatch, *, anchor: Tensor | None = None
    ) -> ReferenceGradient:
        """Return loss and gradient at these parameters; FedProx's term pulls towards the anchor."""
        spec = self._problem.training
        batch = self._convert(batch)
        pull = None
        if spec.minimizer.proximal:
            assert anchor is not None  # noqa: S101 - the caller takes it from the same spec
            pull = spec.minimizer.proximal * (parameters - anchor)
        if batch.random is not None:
            # Which numbers a mask takes depends on the rows of the batch.
            batch = batch.fill(self._problem.batch_size)
        with self._precision():
            _load(self._model, parameters)
            with self._masks(batch):
                outputs = self._model(**batch.inputs)
            share = batch.weight / batch.weight.sum()
            if spec.clipping == "example":
                losses = example_losses(self._problem, outputs, batch.target)
                rows = torch.stack([self._backward(loss) for loss in losses])
                return ReferenceGradient(float((losses.detach() * share).sum()), rows, share, pull)
            loss = self.weighted_loss(outputs, batch)
            gradient = self._backward(loss)
            if pull is not None:
                gradient = gradient + pull
            return ReferenceGradient(
                float(loss.detach()), gradient.unsqueeze(0), torch.ones_like(share[:1])
            )

    def _backward(self, loss: Tensor) -> Tensor:
        tensors = [p for _, p in trainable_parameters(self._model)]
        pieces = torch.autograd.grad(loss, tensors, retain_graph=True, allow_unused=True)
        return torch.cat(
            [
                (torch.zeros_like(p) if piece is None else piece).reshape(-1)
                for p, piece in zip(tensors, pieces, strict=True)
            ]
        )

    def _masks(self, batch: RandomBatch) -> AbstractContextManager[object]:
        if batch.random is None:
            return contextlib.nullcontext()
        return random_numbers(len(batch.random), batch.random)

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
