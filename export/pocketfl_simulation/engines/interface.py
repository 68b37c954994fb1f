"""What every engine offers."""

from __future__ import annotations

from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from pocketfl.errors import ReportError
from pocketfl.runtimes.interface import FloatVector
from pocketfl_simulation.packing import PackedSteps

ENGINES: Final = ("onnxruntime", "torch", "dense", "eager", "compiled")


class Engine(Protocol):
    """Trains devices with the plan's training step; may be called from several threads at once."""

    name: str
    device: str
    """Where it computes: ``cpu`` or ``cuda``."""
    at_once: int
    """Devices that one thread should be given at a time; the memory of a round follows from it."""

    def train(self, steps: PackedSteps, parameters: FloatVector) -> NDArray[np.float64]:
        """Return what each device's training changed.

        Parameters
        ----------
        steps : PackedSteps
            What D devices train on.
        parameters : ndarray of float32, shape (P,)
            What each of them starts from.

        Returns
        -------
        ndarray of float64, shape (D, P)
            Trained parameters minus those; zeros for a device without usable examples.
        """


def finite(updates: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return updates as they are, if training diverged on no device.

    Raises
    ------
    ReportError
        If it did.
    """
    if not np.isfinite(updates).all():
        raise ReportError(
            "a device's training diverged; lower the learning rate or the gradient clip of the plan"
        )
    return updates
