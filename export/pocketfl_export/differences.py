"""How far apart two training steps are, and what is rounding."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from torch import Tensor

from pocketfl.plan.training import LocalOptimizerSpec
from pocketfl.runtimes.optimizers import (
    FIRST_MOMENT,
    SECOND_MOMENT,
    bias_correction,
    updated_arrays,
)
from pocketfl_export.problem import TrainingProblem
from pocketfl_export.reference import Taken

CHANGE_TOLERANCE: Final = 1e-3
"""Of a parameter tensor's change in one step, relative to the tensor's largest change."""
_FLOAT_EPSILON: Final = float(np.finfo(np.float32).eps)


@dataclass(frozen=True)
class Difference:
    """Between what was expected and what was found.

    Attributes
    ----------
    parameter : float
        Largest absolute difference.
    change : float
        Largest difference of a tensor's change, relative to its largest change.
    name : str
        The tensor with the largest difference.
    tensors : dict of str to float
        Largest absolute difference of each tensor.
    """

    parameter: float
    change: float
    name: str
    tensors: Mapping[str, float]

    @classmethod
    def of(
        cls, problem: TrainingProblem, before: Tensor, expected: Tensor, found: Tensor
    ) -> Difference:
        """Compare per parameter tensor; not-a-number counts as infinitely far."""
        worst, change, name = -1.0, 0.0, ""
        tensors: dict[str, float] = {}
        farthest = largest(expected - before)
        for spec in problem.spec.parameters:
            piece = slice(spec.offset, spec.offset + int(np.prod(spec.shape, dtype=np.int64)))
            off = largest(found[piece] - expected[piece])
            moved = largest(expected[piece] - before[piece])
            # Parameters are rounded to float32 after the change was added, and a gradient that is 0 by
            # cancellation (the key bias of attention) is 0 up to the rounding of its terms.
            size = max(largest(before[piece]), largest(expected[piece]))
            floor = _FLOAT_EPSILON * (2 * size + 100 * farthest)
            excess = max(0.0, off - floor)
            if excess > 0:
                change = max(change, excess / moved if moved > 0 else float("inf"))
            tensors[spec.name] = off
            if off > worst:
                worst, name = off, spec.name
        return cls(worst, change, name, tensors)

    def within(self, tolerance: float) -> bool:
        """Whether it is small enough."""
        return self.parameter <= tolerance and self.change <= CHANGE_TOLERANCE


def witness(spec: LocalOptimizerSpec, before: Tensor, taken: Taken, *, rate: float) -> Tensor:
    """Return what shows whether a step's gradient was right, shape (P,).

    Those are the parameters for plain SGD. Adam divides by the root of a mean square, so that the
    rounding of a gradient near 0 becomes a step of full size: there (and with momentum alike) it is the
    first thing that the optimizer remembers, which is linear in the gradient. What the parameters must
    be given that memory is checked by :func:`memory_error`.
    """
    names = updated_arrays(spec)
    return before - rate * taken.memory[names[0]] if names else taken.parameters


def memory_error(  # noqa: PLR0917 - a step's values
    spec: LocalOptimizerSpec,
    before: Tensor,
    memory: Mapping[str, Tensor],
    found: Taken,
    learning_rate: float,
    step: int,
) -> float:
    """Return how far parameters and second moment are from what the found memory makes them.

    Relative to the size of parameters, and of the second moment's own terms; 0 for plain SGD.
    """
    names = updated_arrays(spec)
    if not names:
        return 0.0
    start, moved = before.double(), found.parameters.double()
    scale = max(1.0, largest(start))
    if not spec.is_adaptive:
        return largest(moved - (start - learning_rate * found.memory[names[0]].double())) / scale
    first, second = (found.memory[name].double() for name in (FIRST_MOMENT, SECOND_MOMENT))
    old_first, old_second = (memory[name].double() for name in (FIRST_MOMENT, SECOND_MOMENT))
    gradient = (first - spec.beta1 * old_first) / (1 - spec.beta1)
    squares = spec.beta2 * old_second + (1 - spec.beta2) * gradient**2
    size = max(largest(squares), (1 - spec.beta2) * largest(old_first) ** 2, 1e-30)
    mean_correction, spread_correction = bias_correction(spec, step + 1)
    if spec.kind == "adamw":
        start = start * (1 - learning_rate * spec.weight_decay)
    spread = second.clamp_min(0).sqrt() / spread_correction + spec.epsilon
    expected = start - learning_rate / mean_correction * first / spread
    # Values below float32's smallest normal number may be flushed to 0 by either side.
    settled = (second > 1e-36) | (first == 0)
    off = largest((moved - expected) * settled) / scale
    return max(off, largest(second - squares) / size)


def largest(values: Tensor) -> float:
    """Return the largest absolute value; infinity if one is not finite."""
    found = float(values.abs().max()) if values.numel() else 0.0
    return found if np.isfinite(found) else float("inf")


def relative(found: float, expected: float) -> float:
    """Return the difference, relative to the expected value where that is above 1."""
    difference = abs(found - expected) / max(1.0, abs(expected))
    return difference if np.isfinite(difference) else float("inf")
