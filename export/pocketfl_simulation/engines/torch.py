"""Torch: the exported step of many devices at once under ``vmap``; on a GPU if there is one."""

from __future__ import annotations

import copy
import dataclasses
import threading
from collections.abc import Callable
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from pocketfl.runtimes.batches import RANDOM, WEIGHT
from pocketfl.runtimes.graphs import CLIP_NORM, LEARNING_RATE, PARAMETERS
from pocketfl.runtimes.interface import FloatVector
from pocketfl.runtimes.optimizers import ANCHOR, BIAS_CORRECTION, updated_arrays
from pocketfl_export.problem import TrainingProblem
from pocketfl_export.steps import train_inputs, train_step
from pocketfl_simulation.engines.interface import finite
from pocketfl_simulation.packing import PackedSteps

_SHARED: Final = frozenset({ANCHOR, BIAS_CORRECTION, CLIP_NORM})
"""What is the same for all devices that take their n-th step."""

_AT_ONCE: Final = {"cpu": 64, "cuda": 1024}


class TorchEngine:
    """Parameters of all devices in one tensor; each step takes those that still have a batch.

    Parameters
    ----------
    problem : TrainingProblem
        What was exported.
    device : str, optional
        ``cuda`` if torch sees a GPU, else ``cpu``.
    """

    name = "torch"

    def __init__(self, problem: TrainingProblem, *, device: str | None = None) -> None:
        self.device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self.at_once = _AT_ONCE[self.device]
        self._names = train_inputs(problem)
        self._carried = (PARAMETERS, *updated_arrays(problem.training.minimizer))
        self._clip_norm = problem.training.max_gradient_norm
        self._problem = problem
        self._of_thread = threading.local()

    def _step(self) -> Callable[..., tuple[torch.Tensor, ...]]:
        """Return this thread's step: while torch calls a module, its parameters are others'."""
        step: Callable[..., tuple[torch.Tensor, ...]] | None
        step = getattr(self._of_thread, "step", None)
        if step is None:
            # Buffers and frozen parameters are constants of the step.
            model = copy.deepcopy(self._problem.model).to(self.device)
            step = torch.func.vmap(
                train_step(dataclasses.replace(self._problem, model=model)),
                in_dims=tuple(None if name in _SHARED else 0 for name in self._names),
                randomness="different",
            )
            self._of_thread.step = step
        return step

    def train(self, steps: PackedSteps, parameters: FloatVector) -> NDArray[np.float64]:
        """Take the n-th step of all devices together; see :class:`~.interface.Engine`."""
        # Those with most steps first: whoever has a batch left is at the front.
        order = np.argsort(-steps.counts, kind="stable")
        counts = steps.counts[order]
        starts = (np.cumsum(steps.counts) - steps.counts)[order]
        start = self._tensor(parameters)
        step = self._step()
        state = {
            name: (start if name == PARAMETERS else torch.zeros_like(start)).repeat(len(counts), 1)
            for name in self._carried
        }
        for number in range(int(counts[0]) if len(counts) else 0):
            active = int(np.searchsorted(-counts, -number, side="left"))
            given = self._arguments(steps, starts[:active] + number)
            given |= {name: value[:active] for name, value in state.items()}
            given |= {ANCHOR: start, CLIP_NORM: torch.tensor(self._clip_norm, device=self.device)}
            with torch.no_grad():
                moved = step(*(given[name] for name in self._names))
            for name, value in zip(self._carried, moved, strict=False):
                state[name][:active] = value
        updates = np.zeros((len(counts), parameters.size))
        updates[order] = state[PARAMETERS].cpu().numpy()
        updates[order] -= parameters
        return finite(updates)

    def _arguments(self, steps: PackedSteps, places: NDArray[np.int64]) -> dict[str, torch.Tensor]:
        rows = steps.rows[places]
        given = {name: self._tensor(array[rows]) for name, array in steps.arrays.items()}
        given[WEIGHT] = self._tensor(steps.weight[places])
        given[LEARNING_RATE] = self._tensor(steps.learning_rate[places])
        if steps.random is not None:
            given[RANDOM] = self._tensor(steps.random[places])
        if steps.bias_correction is not None:
            given[BIAS_CORRECTION] = self._tensor(steps.bias_correction[places[0]])
        return given

    def _tensor(self, array: NDArray[Any]) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self.device)
