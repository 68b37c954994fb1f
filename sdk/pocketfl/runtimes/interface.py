"""What every runtime offers, so that training code never asks which one it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

FloatVector: TypeAlias = NDArray[np.float32]
Batch: TypeAlias = Mapping[str, NDArray[np.generic]]
"""Arrays by name: the model's inputs, ``target``, and optionally ``weight`` (float32, one per row).

A training step of a model with dropout also takes ``random``: uniform numbers from 0 to below 1,
float32 of shape (``batch_size``, ``random_numbers``) however few rows the batch has.

All have the same number of rows, 1 to the plan's ``batch_size``; a shorter batch is padded with rows of
weight 0 and gives the same result as if the graph had that batch size.
"""


@dataclass(frozen=True, kw_only=True)
class StepResult:
    """What one training step reports.

    Attributes
    ----------
    loss : float
        Weighted mean loss of the batch before the step.
    gradient_norm : float
        L2 norm of the gradient before clipping; where each example's gradient is clipped, the weighted
        mean of their norms.
    """

    loss: float
    gradient_norm: float


@dataclass(frozen=True, kw_only=True)
class EvaluationResult:
    """Loss and outputs of one batch.

    Attributes
    ----------
    loss : float
        Weighted mean loss.
    outputs : dict of str to ndarray
        The model's outputs by name, one row per row of the batch.
    """

    loss: float
    outputs: dict[str, NDArray[np.generic]]


class Runtime(Protocol):
    """One plan opened in one mobile runtime; holds the current parameters; not safe for threads."""

    name: str
    random_numbers: int
    """Uniform numbers per row that a training step takes as ``random``."""

    def set_parameters(self, vector: FloatVector) -> None:
        """Replace all parameters.

        Parameters
        ----------
        vector : ndarray of float32, shape (P,)
            In the order of ``plan.parameters``; copied.

        Raises
        ------
        ValueError
            If the length is wrong or a value is not finite.
        """

    def parameters(self) -> FloatVector:
        """Return a copy of all parameters, shape (P,)."""

    def start_training(self) -> None:
        """Begin a local training at the current parameters: the optimizer remembers nothing."""

    def optimizer_state(self) -> FloatVector:
        """Return a copy of what the optimizer remembers, as one vector; empty for plain SGD."""

    def restore_optimizer(self, state: FloatVector, *, steps: int) -> None:
        """Go on with a local training, after so many steps of it.

        Raises
        ------
        ValueError
            If the state is not one of this plan's optimizer.
        """

    def train_step(self, batch: Batch, *, learning_rate: float, clip_norm: float) -> StepResult:
        """Take one step of the plan's optimizer on a batch and keep the new parameters."""

    def evaluate(self, batch: Batch) -> EvaluationResult:
        """Return loss and outputs of a batch; parameters stay."""

    def predict(self, inputs: Mapping[str, NDArray[np.generic]]) -> dict[str, NDArray[np.generic]]:
        """Return the outputs for any number of rows; parameters stay."""

    def cancel(self) -> bool:
        """End the call under way, from any thread; the only method that another thread may call.

        That call raises ``TrainingCancelledError`` and the parameters stay as they were before it. A
        call that begins later is not affected; without one under way, nothing happens.

        Returns
        -------
        bool
            False when this runtime cannot interrupt a call: it then ends by itself.
        """

    def close(self) -> None:
        """Free the runtime's memory; further calls raise ``RuntimeError``."""
