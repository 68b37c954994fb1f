"""What must hold of a model and its loss before any graph is made; tried in eager torch.

A graph has a fixed batch whose missing rows have weight 0. That equals a shorter batch only if rows do
not see each other and the loss is the mean over them.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pocketfl_export.batches import RandomBatch, random_batch
from pocketfl_export.errors import ExportError, UnsupportedModelError
from pocketfl_export.problem import TrainingProblem, flatten_outputs
from pocketfl_export.randomness import random_numbers
from pocketfl_export.reference import example_losses

TOLERANCE = 1e-4
"""Relative; rounding stays well below it and a real difference is far above."""

_TRIALS = 3


def check_preconditions(problem: TrainingProblem, *, seed: int = 0) -> None:
    """Try the model on the example and on random batches like it.

    Raises
    ------
    ExportError
        If forward or the loss cannot be run, or give what is not finite.
    UnsupportedModelError
        If forward is random or mixes examples, or the loss is no mean over examples.
    """
    generator = torch.Generator().manual_seed(seed)
    example = RandomBatch(problem.inputs, problem.target, torch.ones(problem.batch_size))
    batches = [example]
    for _ in range(_TRIALS):
        batches.append(random_batch(problem, generator, rows=problem.batch_size))
    with torch.no_grad():
        for batch in batches:
            outputs = _run(problem, batch)
            _check_deterministic(problem, batch, outputs)
            _check_mean(problem, batch, outputs)
            if batch.rows > 1:
                _check_rows_independent(problem, batch, outputs)


def _run(problem: TrainingProblem, batch: RandomBatch) -> object:
    # Dropout keeps everything here: whether rows see each other does not depend on its masks.
    try:
        with random_numbers(batch.rows):
            return problem.model(**{name: value.clone() for name, value in batch.inputs.items()})
    except Exception as error:
        raise ExportError(f"forward fails on a batch like the example: {error}") from error


def _check_deterministic(problem: TrainingProblem, batch: RandomBatch, outputs: object) -> None:
    first, second = flatten_outputs(outputs), flatten_outputs(_run(problem, batch))
    for name, value in first.items():
        if not torch.equal(torch.nan_to_num(value), torch.nan_to_num(second[name])):
            raise UnsupportedModelError(
                operator="random numbers in forward",
                rewrite="use torch.nn.Dropout or torch.rand_like, or give the random tensor to the "
                "model as one of its inputs",
                reason=f"the output {name!r} differs between two calls with the same input",
            )


def _check_mean(problem: TrainingProblem, batch: RandomBatch, outputs: object) -> None:
    try:
        loss = problem.loss(outputs, batch.target)
    except Exception as error:
        raise ExportError(f"the loss fails on the example: {error}") from error
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        found = f"shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
        raise UnsupportedModelError(
            operator="loss",
            rewrite="return one number: the mean over the examples (reduction='mean')",
            reason=f"it returns {found} instead of a scalar",
        )
    if loss.dtype != torch.float32:
        raise ExportError(f"the loss is {loss.dtype}, not torch.float32; convert it")
    if not bool(torch.isfinite(loss)):
        raise ExportError(f"the loss of a batch like the example is {float(loss)}")
    try:
        losses = example_losses(problem, outputs, batch.target)
    except Exception as error:
        raise UnsupportedModelError(
            operator="loss",
            rewrite="write a loss that also takes a batch of one example",
            reason=f"it fails on a single example ({error})",
        ) from error
    if not _close(loss, losses.mean()):
        raise UnsupportedModelError(
            operator="loss that is not a mean over examples",
            rewrite="return the mean of one number per example (reduction='mean'); for class weights "
            "or ignored targets use class_weighted_cross_entropy or ignoring_cross_entropy of "
            "pocketfl_export.rewrites; no terms across examples",
            reason=f"the loss of a batch is {float(loss):.6g}, the mean of its examples' losses "
            f"{float(losses.mean()):.6g}",
        )


def _check_rows_independent(problem: TrainingProblem, batch: RandomBatch, outputs: object) -> None:
    rows = batch.rows // 2
    half = RandomBatch(
        {name: value[:rows] for name, value in batch.inputs.items()},
        batch.target[:rows],
        batch.weight[:rows],
    )
    try:
        shorter = flatten_outputs(_run(problem, half))
    except ExportError as error:
        raise UnsupportedModelError(
            operator="fixed batch size in forward",
            rewrite="take the batch size from the input: x.flatten(1), x.reshape(x.shape[0], -1)",
            reason=f"forward fails on {rows} of {batch.rows} rows ({error})",
        ) from None
    for name, value in flatten_outputs(outputs).items():
        if not _close(value[:rows], shorter[name]):
            raise UnsupportedModelError(
                operator="operation across the batch axis in forward",
                rewrite="normalise over features instead (LayerNorm, GroupNorm), or freeze statistics "
                "of the batch as buffers",
                reason=f"rows of the output {name!r} depend on the other rows of their batch",
            )


def _close(first: Tensor, second: Tensor) -> bool:
    if first.shape != second.shape:
        return False
    if not first.is_floating_point():
        return torch.equal(first, second)
    scale = max(1.0, float(first.abs().max()))
    return bool(((first - second).abs() <= TOLERANCE * scale).all())
