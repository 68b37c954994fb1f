"""What a step is compared with: the matrix products of the trainable layers, in numpy.

A phone has no torch to compare with. The products that a dense layer needs for one batch, forward and
backward, are what no runtime can leave out, and numpy's are those of an optimised library; so the ratio
says what a runtime adds, and compares devices that differ in speed.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod

import numpy as np

from pocketfl.plan.models import ModelSpec


def reference_step(model: ModelSpec) -> Callable[[], object]:
    """Return a function that does the products once.

    Parameters
    ----------
    model : ModelSpec
        Every parameter of two or more dimensions counts as a dense layer from ``prod(shape[1:])`` to
        ``shape[0]`` units. A convolution does the same products once per place of its output, so for
        such a layer this is a lower bound.
    """
    chances = np.random.default_rng(0)

    def array(*shape: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
        return chances.standard_normal(shape, dtype=np.float32)

    rows = model.batch_size
    layers = [
        (
            array(rows, prod(p.shape[1:])),
            array(p.shape[0], prod(p.shape[1:])),
            array(rows, p.shape[0]),
        )
        for p in model.parameters
        if len(p.shape) > 1
    ]

    def step() -> object:
        result: object = None
        for inputs, weights, gradient in layers:
            result = (inputs @ weights.T, gradient.T @ inputs, gradient @ weights)
        return result

    return step
