"""The pure functions that a device runs: one training step, evaluation and inference.

All take one flat float32 vector of parameters, so that a device's update is one array to clip, round
and seal. Gradients are taken with respect to the named tensors and concatenated afterwards:
differentiating with respect to slices of the vector would build a chain of scattered slices as long as
the model.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.func import functional_call, grad_and_value, vjp, vmap

from pocketfl_export.problem import TrainingProblem, flatten_outputs, unflatten

NORM_EPSILON = 1e-6
"""Added to the gradient norm before dividing, as ``torch.nn.utils.clip_grad_norm_`` does."""
SMALLEST_WEIGHT = 1e-30
"""Lower bound of the sum of weights: a batch of padding only has loss 0 and changes nothing."""

Function = Callable[..., tuple[torch.Tensor, ...]]


def per_example_losses(
    problem: TrainingProblem, outputs: object, target: torch.Tensor
) -> torch.Tensor:
    """Apply the loss to each example alone, shape (rows,).

    The batch axis stays, with length 1, so that the loss sees the rank that it was written for.
    """

    def one(example: object, example_target: torch.Tensor) -> torch.Tensor:
        single = torch.utils._pytree.tree_map(lambda t: t.unsqueeze(0), example)
        return problem.loss(single, example_target.unsqueeze(0)).reshape(())

    losses: torch.Tensor = vmap(one)(outputs, target)
    return losses


def weighted_mean(losses: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Return ``sum(weight * losses) / sum(weight)``."""
    return (losses * weight).sum() / weight.sum().clamp_min(SMALLEST_WEIGHT)


def train_step(problem: TrainingProblem) -> Function:
    """Return ``(parameters, *inputs, target, weight, learning_rate, clip_norm)`` to
    ``(new parameters, loss, gradient norm)``: one step of SGD with clipping by global norm.
    """
    names = list(problem.inputs)

    def step(parameters: torch.Tensor, *arguments: torch.Tensor) -> tuple[torch.Tensor, ...]:
        *values, target, weight, learning_rate, clip_norm = arguments
        inputs = dict(zip(names, values, strict=True))

        def mean_loss(tensors: dict[str, torch.Tensor]) -> torch.Tensor:
            outputs = functional_call(problem.model, tensors, (), inputs)
            return weighted_mean(per_example_losses(problem, outputs, target), weight)

        gradients, loss = grad_and_value(mean_loss)(unflatten(parameters, problem.spec))
        gradient = torch.cat([gradients[p.name].reshape(-1) for p in problem.spec.parameters])
        norm = (gradient * gradient).sum().sqrt()
        scale = (clip_norm / (norm + NORM_EPSILON)).clamp_max(1.0)
        return parameters - gradient * (learning_rate * scale), loss, norm

    return step


def evaluation(problem: TrainingProblem) -> Function:
    """Return ``(parameters, *inputs, target, weight)`` to ``(loss, *outputs)``, in eval mode."""
    names = list(problem.inputs)

    def evaluate(parameters: torch.Tensor, *arguments: torch.Tensor) -> tuple[torch.Tensor, ...]:
        *values, target, weight = arguments
        outputs = _call(problem.evaluation_model, problem, parameters, names, values)
        loss = weighted_mean(per_example_losses(problem, outputs, target), weight)
        return loss, *flatten_outputs(outputs).values()

    return evaluate


def prediction(problem: TrainingProblem) -> Function:
    """Return ``(parameters, *inputs)`` to ``outputs``, in eval mode."""
    names = list(problem.inputs)

    def predict(parameters: torch.Tensor, *values: torch.Tensor) -> tuple[torch.Tensor, ...]:
        outputs = _call(problem.evaluation_model, problem, parameters, names, list(values))
        return tuple(flatten_outputs(outputs).values())

    return predict


def _call(
    model: nn.Module,
    problem: TrainingProblem,
    parameters: torch.Tensor,
    names: list[str],
    values: list[torch.Tensor],
) -> object:
    inputs = dict(zip(names, values, strict=True))

    def forward(tensors: dict[str, torch.Tensor]) -> tuple[torch.Tensor, object]:
        outputs = functional_call(model, tensors, (), inputs)
        return next(iter(flatten_outputs(outputs).values())), outputs

    # Nothing is differentiated here. Under the transform torch's recurrent cells take the kernels of
    # training, which are the same arithmetic without changes in place.
    return vjp(forward, unflatten(parameters, problem.spec), has_aux=True)[-1]
