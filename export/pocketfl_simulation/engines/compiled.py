"""Torch, device after device, with blocks of convolutions in compiled loops."""

from __future__ import annotations

import torch

from pocketfl_export.problem import TrainingProblem
from pocketfl_simulation.engines.blocks import fuse_blocks
from pocketfl_simulation.engines.eager import EagerEngine


class CompiledEngine(EagerEngine):
    """The plain training loop; a 3 x 3 convolution, ReLU and 2 x 2 pooling are one operator."""

    name = "compiled"
    memory_format = None

    @classmethod
    def of(cls, problem: TrainingProblem) -> CompiledEngine | None:
        """Return the engine of a problem, None where it has no such block, or is none for eager."""
        if EagerEngine.of(problem) is None:
            return None
        model = fuse_blocks(problem.model)
        if model is None:
            return None
        engine = cls(problem, model)
        engine._compile()
        return engine

    def _compile(self) -> None:
        """Train on the example batch, so that all is compiled before anybody takes the time."""
        model, parameters = self._model()
        loss = self._problem.loss(model(**self._problem.inputs), self._problem.target)
        torch.autograd.grad(loss, parameters)
