"""One step of an optimizer on flat vectors, as part of a graph; formulas as in ``torch.optim``."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from pocketfl.plan.training import LocalOptimizerSpec
from pocketfl.runtimes.graphs import LEARNING_RATE, PARAMETERS
from pocketfl.runtimes.optimizers import (
    ANCHOR,
    BIAS_CORRECTION,
    FIRST_MOMENT,
    SECOND_MOMENT,
    VELOCITY,
)


def add_proximal(spec: LocalOptimizerSpec, given: Mapping[str, Tensor], gradient: Tensor) -> Tensor:
    """Add the gradient of ``mu / 2 |w - anchor|^2``: ``mu (w - anchor)`` (arXiv 1812.06127, eq. 2)."""
    if spec.proximal == 0:
        return gradient
    return gradient + spec.proximal * (given[PARAMETERS] - given[ANCHOR])


def update(
    spec: LocalOptimizerSpec, given: Mapping[str, Tensor], gradient: Tensor, scale: Tensor
) -> tuple[Tensor, ...]:
    """Return the new parameters, and what the optimizer remembers of the step.

    Parameters
    ----------
    spec : LocalOptimizerSpec
        The optimizer.
    given : mapping of str to Tensor
        A training step's arguments.
    gradient : Tensor
        Before clipping, shape (P,).
    scale : Tensor
        What clipping multiplies it by, a scalar.
    """
    parameters, learning_rate = given[PARAMETERS], given[LEARNING_RATE]
    if spec == LocalOptimizerSpec(proximal=spec.proximal):
        # Plain SGD: one pass over the parameters less.
        return (parameters - gradient * (learning_rate * scale),)
    gradient = gradient * scale
    if spec.weight_decay and spec.kind != "adamw":
        gradient = gradient + spec.weight_decay * parameters
    if not spec.is_adaptive:
        if spec.momentum == 0:
            return (parameters - gradient * learning_rate,)
        velocity = spec.momentum * given[VELOCITY] + gradient
        return parameters - velocity * learning_rate, velocity
    if spec.weight_decay and spec.kind == "adamw":
        parameters = parameters * (1 - learning_rate * spec.weight_decay)
    first = spec.beta1 * given[FIRST_MOMENT] + (1 - spec.beta1) * gradient
    second = spec.beta2 * given[SECOND_MOMENT] + (1 - spec.beta2) * (gradient * gradient)
    # Algorithm 1 of arXiv 1412.6980; the square root of the correction is taken by the device.
    mean_correction, spread_correction = given[BIAS_CORRECTION][0], given[BIAS_CORRECTION][1]
    spread = second.sqrt() / spread_correction + spec.epsilon
    return parameters - (learning_rate / mean_correction) * (first / spread), first, second
