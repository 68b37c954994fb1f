"""The model in use, looking at one drawing."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pocketfl.store import ExampleStore
from pocketfl_app.bundle import Bundle
from pocketfl_app.device.models import open_model


class Predictor:
    """Opens the model in use; for one thread.

    Parameters
    ----------
    store, bundle, runtime, keys
        As for :func:`~pocketfl_app.device.models.open_model`.
    """

    def __init__(
        self, store: ExampleStore, bundle: Bundle, *, runtime: str, keys: tuple[str, ...]
    ) -> None:
        self._trainer = open_model(store, bundle, runtime=runtime, keys=keys)
        # The graph is loaded at its first use: now, and not when the person draws.
        self.predict(np.zeros((1, 28, 28), np.float32))

    def predict(self, image: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return the probability of each digit, shape (10,), for an image of shape (1, 28, 28)."""
        (logits,) = self._trainer.predict({"image": image}).values()
        raised = np.exp(logits.astype(np.float64) - logits.max())
        chances: NDArray[np.float64] = raised / raised.sum()
        return chances

    def close(self) -> None:
        """Free the runtime."""
        self._trainer.close()
