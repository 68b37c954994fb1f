"""Random batches that look like the example: the gate's test data."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pocketfl_export.problem import TrainingProblem


@dataclass(frozen=True)
class RandomBatch:
    """Inputs by name, the target, and one weight per row."""

    inputs: dict[str, Tensor]
    target: Tensor
    weight: Tensor

    @property
    def rows(self) -> int:
        """Number of rows."""
        return len(self.target)

    @property
    def is_uniform(self) -> bool:
        """Whether all rows have the same weight."""
        return bool((self.weight == self.weight[0]).all())

    def double(self) -> RandomBatch:
        """Return the batch with its floats in double precision."""
        return RandomBatch(
            {name: _double(value) for name, value in self.inputs.items()},
            _double(self.target),
            _double(self.weight),
        )


def random_batch(
    problem: TrainingProblem, generator: torch.Generator, *, rows: int, weighted: bool = False
) -> RandomBatch:
    """Draw a batch from the values of the example.

    Every element comes from the same position of random rows, so indices stay within their tables and
    quantities within their range; floating-point inputs are mixed from two rows each, so that no two
    batches are alike. An example of one repeated number tells nothing and becomes standard normal.

    Parameters
    ----------
    problem : TrainingProblem
        The model and its example.
    generator : torch.Generator
        Source of randomness.
    rows : int
        Rows of the batch.
    weighted : bool
        Whether rows have different weights.
    """
    weight = torch.ones(rows)
    if weighted:
        weight = 0.5 + torch.rand(rows, generator=generator)
    return RandomBatch(
        {name: _mix(value, rows, generator) for name, value in problem.inputs.items()},
        _draw(problem.target, rows, generator),
        weight,
    )


def _draw(example: Tensor, rows: int, generator: torch.Generator) -> Tensor:
    shape = (rows, *example.shape[1:])
    source = torch.randint(0, example.shape[0], shape, generator=generator)
    return torch.gather(example, 0, source)


def _mix(example: Tensor, rows: int, generator: torch.Generator) -> Tensor:
    if not example.is_floating_point():
        return _draw(example, rows, generator)
    shape = (rows, *example.shape[1:])
    if bool((example == example.reshape(-1)[0]).all()):
        return torch.randn(shape, generator=generator, dtype=example.dtype)
    first, second = _draw(example, rows, generator), _draw(example, rows, generator)
    share = torch.rand(shape, generator=generator, dtype=example.dtype)
    return first + share * (second - first)


def _double(value: Tensor) -> Tensor:
    return value.double() if value.is_floating_point() else value
