"""Torch, device after device: a plain training loop; wins where one step is work enough for a core."""

from __future__ import annotations

import copy
import threading
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from pocketfl.runtimes.batches import TARGET, WEIGHT
from pocketfl.runtimes.graphs import LEARNING_RATE, PARAMETERS
from pocketfl.runtimes.interface import FloatVector
from pocketfl.runtimes.optimizers import ANCHOR, BIAS_CORRECTION, updated_arrays
from pocketfl_export import optimizers
from pocketfl_export.problem import TrainingProblem
from pocketfl_export.steps import clip_factor, per_example_losses, weighted_mean
from pocketfl_simulation.engines.interface import finite
from pocketfl_simulation.packing import PackedSteps

_TRIED: Final = 60
"""Rows on which a loss is tried, besides four for each class."""


class EagerEngine:
    """One device at a time on each thread, with autograd and without any transform.

    Parameters
    ----------
    problem : TrainingProblem
        What was exported; clips the batch's gradient, and draws nothing at random.
    model : torch.nn.Module, optional
        With parameters of the same names; the problem's own by default.
    """

    name = "eager"
    device = "cpu"
    at_once = 16
    memory_format: torch.memory_format | None = torch.channels_last
    """Of the model; torch's own convolutions and pooling are fastest with channels last."""

    def __init__(self, problem: TrainingProblem, model: torch.nn.Module | None = None) -> None:
        self._problem = problem
        self._trained = problem.model if model is None else model
        self._minimizer = problem.training.minimizer
        self._carried = updated_arrays(self._minimizer)
        self._clip_norm = torch.tensor(problem.training.max_gradient_norm)
        self._is_plain_mean = is_plain_mean(problem)
        self._of_thread = threading.local()

    @classmethod
    def of(cls, problem: TrainingProblem) -> EagerEngine | None:
        """Return the engine of a problem, None where it clips examples or has dropout."""
        if problem.training.clipping is not None or problem.spec.random_numbers:
            return None
        return cls(problem)

    def _model(self) -> tuple[torch.nn.Module, list[torch.nn.Parameter]]:
        """Return this thread's model and its parameters in the plan's order."""
        found: tuple[torch.nn.Module, list[torch.nn.Parameter]] | None
        found = getattr(self._of_thread, "model", None)
        if found is None:
            model = copy.deepcopy(self._trained)
            if self.memory_format is not None:
                model.to(memory_format=self.memory_format)  # type: ignore[call-overload]
            named = dict(model.named_parameters())
            found = model, [named[parameter.name] for parameter in self._problem.spec.parameters]
            self._of_thread.model = found
        return found

    def train(self, steps: PackedSteps, parameters: FloatVector) -> NDArray[np.float64]:
        """Train one device after the other; see :class:`~.interface.Engine`."""
        updates = np.zeros((len(steps.counts), parameters.size))
        ends = np.cumsum(steps.counts)
        start = torch.from_numpy(parameters)
        for device in np.flatnonzero(steps.counts).tolist():
            places = range(int(ends[device] - steps.counts[device]), int(ends[device]))
            updates[device] = self._train_one(steps, places, start).numpy()
            updates[device] -= parameters
        return finite(updates)

    def _train_one(self, steps: PackedSteps, places: range, start: torch.Tensor) -> torch.Tensor:
        model, tensors = self._model()
        vector = start.clone()
        pieces = torch.split(vector, [tensor.numel() for tensor in tensors])
        copied = []
        for tensor, piece in zip(tensors, pieces, strict=True):
            shaped = piece.view(tensor.shape)
            if shaped.stride() == tensor.stride():
                tensor.data = shaped  # It moves with the vector.
            else:
                copied.append((tensor, shaped))
        memory = {name: torch.zeros_like(start) for name in self._carried}
        for place in places:
            with torch.no_grad():
                for tensor, shaped in copied:
                    tensor.copy_(shaped)
            # Without the rows that fill a batch up: here no two devices share a shape.
            used = steps.weight[place] > 0
            rows = steps.rows[place][used]
            inputs = {name: _rows_of(steps, name, rows) for name in self._problem.inputs}
            weight = torch.from_numpy(steps.weight[place][used])
            target = _rows_of(steps, TARGET, rows)
            gradients = torch.autograd.grad(self._loss(model(**inputs), target, weight), tensors)
            with torch.no_grad():
                gradient = torch.cat([part.reshape(-1) for part in gradients])
                given = {PARAMETERS: vector, ANCHOR: start, WEIGHT: weight, **memory}
                given[LEARNING_RATE] = torch.tensor(steps.learning_rate[place])
                if steps.bias_correction is not None:
                    given[BIAS_CORRECTION] = torch.from_numpy(steps.bias_correction[place])
                gradient = optimizers.add_proximal(self._minimizer, given, gradient)
                scale = clip_factor(torch.linalg.vector_norm(gradient), self._clip_norm)
                moved, *kept = optimizers.update(self._minimizer, given, gradient, scale)
                vector.copy_(moved)
                memory = dict(zip(self._carried, kept, strict=True))
        return vector

    def _loss(self, outputs: object, target: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        if self._is_plain_mean and bool((weight == 1).all()):
            return self._problem.loss(outputs, target)
        return weighted_mean(per_example_losses(self._problem, outputs, target), weight)


def is_plain_mean(problem: TrainingProblem) -> bool:
    """Return whether the loss of a batch is the mean of its examples' losses, found by trying.

    The plan's is that mean. A loss may be another: one whose classes have weights divides by their sum.
    """
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        outputs = problem.evaluation_model(**problem.inputs)
        if not isinstance(outputs, torch.Tensor):
            return False
        shape = problem.target.shape[1:]
        classes = outputs.shape[1] if outputs.dim() > 1 else 1
        rows = 4 * classes + _TRIED
        if problem.target.dtype == torch.int64:
            # All classes, for one that no example has may be the one with a weight.
            target = torch.arange(rows * shape.numel()) % classes
            target = target[torch.randperm(len(target))].view(rows, *shape)
        else:
            target = problem.target[torch.randint(len(problem.target), (rows,))]
        tried = outputs[torch.randint(len(outputs), (rows,))]
        tried = tried + torch.randn_like(tried)
        try:
            alone = per_example_losses(problem, tried, target)
            return all(
                torch.allclose(
                    problem.loss(tried[:end], target[:end]), alone[:end].mean(), rtol=1e-5
                )
                for end in (1, rows // 2, rows)
            )
        except (RuntimeError, IndexError, ValueError, TypeError):
            return False


def _rows_of(steps: PackedSteps, name: str, rows: NDArray[np.int64]) -> torch.Tensor:
    array: NDArray[Any] = steps.arrays[name]
    return torch.from_numpy(array[rows])
