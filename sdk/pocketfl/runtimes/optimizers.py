"""What a training step remembers from one batch to the next, as arrays that the graph reads.

A graph is a pure function, so its optimizer's memory goes in and comes out like the parameters do.
Which arrays there are follows from the plan; exporter and runtimes ask the same functions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pocketfl.plan.training import LocalOptimizerSpec
from pocketfl.runtimes.interface import FloatVector

ANCHOR: Final = "anchor"
"""The parameters that local training started with, for FedProx; the graph only reads it."""
VELOCITY: Final = "velocity"
"""SGD's running sum of gradients."""
FIRST_MOMENT: Final = "first_moment"
SECOND_MOMENT: Final = "second_moment"
"""Adam's running means of gradients and of their squares, before bias correction."""
BIAS_CORRECTION: Final = "bias_correction"
"""Two numbers for Adam: ``1 - beta1^t`` and ``sqrt(1 - beta2^t)`` for step t, counted from 1.

Computed here in double precision: for the first steps, 1 - beta2 has only four digits in single.
"""


def updated_arrays(spec: LocalOptimizerSpec) -> tuple[str, ...]:
    """Return the arrays of shape (P,) that a step takes and gives back."""
    if spec.is_adaptive:
        return FIRST_MOMENT, SECOND_MOMENT
    return (VELOCITY,) if spec.momentum else ()


def state_arrays(spec: LocalOptimizerSpec) -> tuple[str, ...]:
    """Return all arrays of shape (P,) that a step takes, in the order in which it does."""
    return (*((ANCHOR,) if spec.proximal else ()), *updated_arrays(spec))


def bias_correction(spec: LocalOptimizerSpec, step: int) -> tuple[float, float]:
    """Return :data:`BIAS_CORRECTION` for a step, counted from 1."""
    first = -math.expm1(step * math.log(spec.beta1)) if spec.beta1 else 1.0
    second = -math.expm1(step * math.log(spec.beta2)) if spec.beta2 else 1.0
    return first, math.sqrt(second)


class OptimizerState:
    """The arrays of one runtime; they never move, so that a graph can be bound to them.

    Parameters
    ----------
    spec : LocalOptimizerSpec
        The plan's optimizer.
    parameter_count : int
        P.

    Attributes
    ----------
    arrays : dict of str to ndarray of float32
        In the order of the graph's inputs: those of :func:`state_arrays`, and the bias correction.
    """

    def __init__(self, spec: LocalOptimizerSpec, parameter_count: int) -> None:
        self._spec = spec
        self._names = state_arrays(spec)
        self.arrays: dict[str, FloatVector] = {
            name: np.zeros(parameter_count, np.float32) for name in self._names
        }
        if spec.is_adaptive:
            self.arrays[BIAS_CORRECTION] = np.zeros(2, np.float32)
        self._steps = 0

    @property
    def vectors(self) -> tuple[str, ...]:
        """Names of the arrays of shape (P,)."""
        return self._names

    def start(self, parameters: FloatVector) -> None:
        """Forget everything; training starts from these parameters."""
        for name in self._names:
            self.arrays[name][:] = parameters if name == ANCHOR else 0.0
        self._steps = 0

    def before_step(self) -> None:
        """Set what depends on how many steps were taken."""
        if self._spec.is_adaptive:
            self.arrays[BIAS_CORRECTION][:] = bias_correction(self._spec, self._steps + 1)

    def after_step(self, updated: Sequence[NDArray[np.generic]]) -> None:
        """Take what a step gave back, in the order of :func:`updated_arrays`."""
        for name, array in zip(updated_arrays(self._spec), updated, strict=True):
            self.arrays[name][:] = array
        self.count_step()

    def count_step(self) -> None:
        """Count a step whose arrays are kept elsewhere."""
        self._steps += 1

    def vector(self) -> FloatVector:
        """Return a copy of all arrays, one after the other; empty for plain SGD."""
        return np.concatenate([np.zeros(0, np.float32), *map(self.arrays.__getitem__, self._names)])

    def restore(self, vector: FloatVector, *, steps: int) -> None:
        """Go on where :meth:`vector` was taken, after so many steps.

        Raises
        ------
        ValueError
            If the vector is not one of this optimizer, or holds what is not finite.
        """
        size = sum(self.arrays[name].size for name in self._names)
        if vector.dtype != np.float32 or vector.shape != (size,):
            raise ValueError(
                f"the optimizer's state is {vector.dtype}{list(vector.shape)}; this plan's is "
                f"float32[{size}]"
            )
        if steps < 0 or not np.isfinite(vector).all():
            raise ValueError("the optimizer's state is not all finite, or of a negative step")
        pieces = np.split(vector, len(self._names)) if self._names else []
        for name, piece in zip(self._names, pieces, strict=True):
            self.arrays[name][:] = piece
        self._steps = steps
