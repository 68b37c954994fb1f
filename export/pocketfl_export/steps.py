"""The pure functions that a device runs: one training step, evaluation and inference.

All take one flat float32 vector of parameters, so that a device's update is one array to clip, round
and seal. Gradients are taken with respect to the named tensors and concatenated afterwards:
differentiating with respect to slices of the vector would build a chain of scattered slices as long as
the model.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.func import functional_call, grad_and_value, vjp, vmap

from pocketfl.runtimes.batches import RANDOM, TARGET, WEIGHT
from pocketfl.runtimes.graphs import CLIP_NORM, LEARNING_RATE, PARAMETERS
from pocketfl.runtimes.optimizers import BIAS_CORRECTION, state_arrays
from pocketfl_export import optimizers
from pocketfl_export.problem import TrainingProblem, flatten_outputs, unflatten
from pocketfl_export.scopes import scope

NORM_EPSILON = 1e-6
"""Added to the gradient norm before dividing, as ``torch.nn.utils.clip_grad_norm_`` does."""
SMALLEST_WEIGHT = 1e-30
"""Lower bound of the sum of weights: a batch of padding only has loss 0 and changes nothing."""

Function = Callable[..., tuple[torch.Tensor, ...]]
Tensors = dict[str, torch.Tensor]


def per_example_losses(
    problem: TrainingProblem, outputs: object, target: torch.Tensor
) -> torch.Tensor:
    """Apply the loss to each example alone, shape (rows,).

    The batch axis stays, with length 1, so that the loss sees the rank that it was written for.
    """

    def one(example: object, example_target: torch.Tensor) -> torch.Tensor:
        single = torch.utils._pytree.tree_map(lambda t: t.unsqueeze(0), example)
        return problem.loss(single, example_target.unsqueeze(0)).reshape(())

    with scope("loss"):
        losses: torch.Tensor = vmap(one)(outputs, target)
    return losses


def weighted_mean(losses: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Return ``sum(weight * losses) / sum(weight)``."""
    with scope("loss"):
        return (losses * weight).sum() / weight.sum().clamp_min(SMALLEST_WEIGHT)


def train_step(problem: TrainingProblem) -> Function:
    """Return one step of local training as a function.

    It takes what :func:`train_inputs` names and returns the new parameters, what the optimizer
    remembers (:func:`pocketfl.runtimes.optimizers.updated_arrays`), the loss, and the gradient's norm
    before clipping.
    """
    names = train_inputs(problem)
    spec = problem.training

    def step(*arguments: torch.Tensor) -> tuple[torch.Tensor, ...]:
        given = dict(zip(names, arguments, strict=True))
        gradient = mean_gradient if spec.clipping is None else clipped_mean_of_examples
        direction, scale, loss, norm = gradient(problem, given)
        with scope("update"):
            parameters, *memory = optimizers.update(spec.minimizer, given, direction, scale)
        return parameters, *memory, loss, norm

    return step


def train_inputs(problem: TrainingProblem) -> tuple[str, ...]:
    """Return the names of a training step's arguments, in order."""
    random = (RANDOM,) if problem.spec.random_numbers else ()
    state = state_arrays(problem.training.minimizer)
    correction = (BIAS_CORRECTION,) if problem.training.minimizer.is_adaptive else ()
    return (
        PARAMETERS,
        *problem.inputs,
        TARGET,
        WEIGHT,
        *random,
        *state,
        *correction,
        LEARNING_RATE,
        CLIP_NORM,
    )


def mean_gradient(problem: TrainingProblem, given: Tensors) -> tuple[torch.Tensor, ...]:
    """Return (gradient of the batch's mean loss, what clipping multiplies it by, loss, its norm)."""
    inputs = {name: given[name] for name in problem.inputs}

    def mean_loss(tensors: Tensors) -> torch.Tensor:
        outputs = call_model(problem.model, tensors, inputs)
        losses = per_example_losses(problem, outputs, given[TARGET])
        return weighted_mean(losses, given[WEIGHT])

    gradients, loss = grad_and_value(mean_loss)(unflatten(given[PARAMETERS], problem.spec))
    gradient = _join(problem, gradients)
    gradient = optimizers.add_proximal(problem.training.minimizer, given, gradient)
    with scope("clip"):
        norm = (gradient * gradient).sum().sqrt()
        return gradient, clip_factor(norm, given[CLIP_NORM]), loss, norm


def clipped_mean_of_examples(problem: TrainingProblem, given: Tensors) -> tuple[torch.Tensor, ...]:
    """Return (weighted mean of each example's clipped gradient, 1, loss, mean gradient norm).

    The gradients of all examples at once, by ``vmap``; never as one matrix of examples by parameters,
    which would be copied several times: norms and sums go tensor by tensor. FedProx's term depends on
    no example and is added afterwards.
    """

    def example_gradient(
        tensors: Tensors, inputs: Tensors, target: torch.Tensor
    ) -> tuple[Tensors, torch.Tensor]:
        def example_loss(tensors: Tensors) -> torch.Tensor:
            single = {name: value.unsqueeze(0) for name, value in inputs.items()}
            outputs = call_model(problem.model, tensors, single)
            with scope("loss"):
                return problem.loss(outputs, target.unsqueeze(0)).reshape(())

        return grad_and_value(example_loss)(tensors)

    inputs = {name: given[name] for name in problem.inputs}
    tensors = unflatten(given[PARAMETERS], problem.spec)
    gradients, losses = vmap(example_gradient, in_dims=(None, 0, 0), randomness="different")(
        tensors, inputs, given[TARGET]
    )
    rows = problem.batch_size
    flat = {name: value.reshape(rows, -1) for name, value in gradients.items()}
    squares = [(flat[p.name] * flat[p.name]).sum(1) for p in problem.spec.parameters]
    norms = torch.stack(squares).sum(0).sqrt()
    total = given[WEIGHT].sum().clamp_min(SMALLEST_WEIGHT)
    share = given[WEIGHT] / total
    factors = (clip_factor(norms, given[CLIP_NORM]) * share).unsqueeze(0)
    gradient = _join(problem, {name: factors @ value for name, value in flat.items()})
    gradient = optimizers.add_proximal(problem.training.minimizer, given, gradient)
    return gradient, torch.ones(()), (losses * share).sum(), (norms * share).sum()


def clip_factor(norm: torch.Tensor, clip_norm: torch.Tensor) -> torch.Tensor:
    """Return what a gradient of this norm is multiplied by, at most 1."""
    return (clip_norm / (norm + NORM_EPSILON)).clamp_max(1.0)


def _join(problem: TrainingProblem, gradients: Tensors) -> torch.Tensor:
    with scope("gradient"):
        return torch.cat([gradients[p.name].reshape(-1) for p in problem.spec.parameters])


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
        outputs = call_model(model, tensors, inputs)
        return next(iter(flatten_outputs(outputs).values())), outputs

    # Nothing is differentiated here. Under the transform torch's recurrent cells take the kernels of
    # training, which are the same arithmetic without changes in place.
    return vjp(forward, unflatten(parameters, problem.spec), has_aux=True)[-1]


def call_model(model: nn.Module, tensors: Tensors, inputs: Tensors) -> Any:
    """Call a model with these tensors in place of its trainable parameters.

    A parameter that several modules share is replaced in all of them. ``functional_call`` does that by
    itself, but leaves its tensors behind in a module that has two names.
    """
    places = {id(p): name for name, p in model.named_parameters()}
    everywhere: Tensors = {}
    for prefix, module in model.named_modules():
        for own, parameter in module.named_parameters(recurse=False):
            name = places.get(id(parameter), "")
            if name in tensors:
                everywhere[f"{prefix}.{own}" if prefix else own] = tensors[name]
    return functional_call(model, everywhere, (), inputs, tie_weights=False)
