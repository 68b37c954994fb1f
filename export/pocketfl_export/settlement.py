"""A training step that differs from torch, decided in double precision."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from pocketfl_export.batches import RandomBatch
from pocketfl_export.differences import CHANGE_TOLERANCE, Difference, relative, witness
from pocketfl_export.problem import TrainingProblem
from pocketfl_export.reference import EagerReference, Taken, take_step

ROUNDING: Final = 1e-6
"""Relative size of a perturbation that is taken for rounding."""
_PERTURBATIONS: Final = 48


@dataclass(frozen=True, kw_only=True)
class Step:
    """One training step: all that decides it.

    Attributes
    ----------
    parameters, anchor : Tensor
        Shape (P,).
    memory : dict of str to Tensor
        What the optimizer remembers.
    number : int
        Steps before this one.
    batch : RandomBatch
        Its examples.
    learning_rate, clip_norm : float
        Its rates.
    """

    parameters: Tensor
    anchor: Tensor
    memory: Mapping[str, Tensor]
    number: int
    batch: RandomBatch
    learning_rate: float
    clip_norm: float

    def take(
        self, reference: EagerReference, problem: TrainingProblem, parameters: Tensor
    ) -> Taken:
        """Take the step at other parameters, in their precision."""
        kind = parameters.dtype
        gradient = reference.gradient(parameters, self.batch, anchor=self.anchor.to(kind))
        moved, memory = take_step(
            problem.training.minimizer,
            parameters,
            {name: value.to(kind) for name, value in self.memory.items()},
            gradient.clipped(self.clip_norm),
            learning_rate=self.learning_rate,
            step=self.number,
        )
        return Taken(moved, memory, gradient.norm)


class Settlement:
    """Decides a miss in double precision; see the description of :mod:`pocketfl_export.parity`.

    Parameters
    ----------
    problem : TrainingProblem
        The model.
    tolerance : float
        The gate's.
    seed : int
        Of the perturbations.
    """

    def __init__(self, problem: TrainingProblem, *, tolerance: float, seed: int) -> None:
        self._problem = problem
        self._tolerance = tolerance
        self._reference: EagerReference | None = None
        self._generator = torch.Generator().manual_seed(seed)

    def accepts(self, step: Step, expected: Taken, found: Taken) -> bool:
        """Return whether what a runtime found is as right as what torch expected."""
        if not expected.is_finite or not found.is_finite:
            return False
        start = step.parameters.double()
        exact = self._take(step, start)
        if exact is None:
            return False
        if self._as_near(step, start, exact, expected, found):
            return True
        ours = self._witness(step, start, found)
        for _ in range(_PERTURBATIONS):
            noise = torch.randn(start.shape, generator=self._generator, dtype=torch.float64)
            nudged = start * (1 + ROUNDING * noise.clamp(-1, 1))
            other = self._take(step, nudged)
            if other is None:
                return False
            # Only the change is compared: the nudge itself is no part of the result.
            moved = start + (self._witness(step, nudged, other) - nudged)
            difference = Difference.of(self._problem, start, moved, ours)
            norm = relative(found.norm, other.norm)
            if difference.within(self._tolerance) and norm <= self._tolerance:
                return True
        return False

    def _as_near(
        self, step: Step, start: Tensor, exact: Taken, expected: Taken, found: Taken
    ) -> bool:
        """Whether nothing of a runtime's step is further from the exact one than torch's."""
        truth = self._witness(step, start, exact)
        ours, torchs = (
            Difference.of(self._problem, start, truth, self._witness(step, start, taken))
            for taken in (found, expected)
        )
        return (
            ours.parameter <= max(torchs.parameter, self._tolerance)
            and ours.change <= max(torchs.change, CHANGE_TOLERANCE)
            and relative(found.norm, exact.norm)
            <= max(relative(expected.norm, exact.norm), self._tolerance)
        )

    def _witness(self, step: Step, before: Tensor, taken: Taken) -> Tensor:
        spec = self._problem.training.minimizer
        return witness(spec, before, taken, rate=step.learning_rate).double()

    def _take(self, step: Step, parameters: Tensor) -> Taken | None:
        if self._reference is None:
            self._reference = EagerReference(self._problem, double=True)
        try:
            return step.take(self._reference, self._problem, parameters)
        except RuntimeError:  # A model that cannot run in double precision cannot be settled.
            return None
