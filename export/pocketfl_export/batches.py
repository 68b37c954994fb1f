"""Random batches that look like the example: the gate's test data."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pocketfl_export.problem import TrainingProblem


@dataclass(frozen=True)
class RandomBatch:
    """Inputs by name, the target, one weight per row, and the numbers that dropout takes.

    ``random`` has the rows of a full batch, or is None for a model without dropout.
    """

    inputs: dict[str, Tensor]
    target: Tensor
    weight: Tensor
    random: Tensor | None = None

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
            self.random,  # Compared with a probability; the same mask in either precision.
        )

    def fill(self, rows: int) -> RandomBatch:
        """Return the batch as a runtime fills it up: copies of its first row, with weight 0."""
        missing = rows - self.rows

        def filled(value: Tensor) -> Tensor:
            return torch.cat([value, value[:1].expand(missing, *value.shape[1:])])

        return RandomBatch(
            {name: filled(value) for name, value in self.inputs.items()},
            filled(self.target),
            torch.cat([self.weight, self.weight.new_zeros(missing)]),
            self.random,
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
    inputs = {name: _mix(value, rows, generator) for name, value in problem.inputs.items()}
    target = _draw(problem.target, rows, generator)
    random = None
    if problem.spec.random_numbers:
        shape = (problem.batch_size, problem.spec.random_numbers)
        random = torch.rand(shape, generator=generator)
    return RandomBatch(inputs, target, weight, random)


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
