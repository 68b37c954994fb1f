"""From the arrays of an app to the fixed arrays that a graph reads: checked, copied, padded.

The graphs have a static batch, so a runtime owns one array per input for its whole life and every batch
is copied into them. A short batch is filled up with copies of its own first row at weight 0: a real row
cannot bring in a NaN (0/0 of a normalisation, the logarithm of 0) that weight 0 would not silence.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pocketfl.plan.models import ModelSpec, TensorSpec

Array = NDArray[np.generic]

TARGET: Final = "target"
WEIGHT: Final = "weight"
RANDOM: Final = "random"


class BatchBuffers:
    """One array of ``batch_size`` rows per input, the target and the weights; they never move.

    Parameters
    ----------
    model : ModelSpec
        The plan's interface.

    Attributes
    ----------
    arrays : dict of str to ndarray
        The inputs in order, then ``target`` (in the target's dtype), ``weight`` (float32), and for a
        model with dropout ``random`` (float32).
    batch_size : int
        Rows of every array.
    """

    def __init__(self, model: ModelSpec) -> None:
        self.batch_size = model.batch_size
        self._inputs = {spec.name: spec for spec in model.inputs}
        self._batch = {**self._inputs, TARGET: model.target}
        self.arrays: dict[str, Array] = {
            name: np.zeros((self.batch_size, *spec.shape), spec.dtype)
            for name, spec in self._batch.items()
        }
        self._weight = np.zeros(self.batch_size, np.float32)
        self.arrays[WEIGHT] = self._weight
        self._random = np.zeros((self.batch_size, model.random_numbers or 0), np.float32)
        if model.random_numbers:
            self.arrays[RANDOM] = self._random

    def load_random(self, batch: Mapping[str, Array]) -> dict[str, Array]:
        """Copy the random numbers of a training batch and return the rest of it.

        Raises
        ------
        ValueError
            If they are missing, superfluous, or not numbers from 0 to below 1 of the right shape.
        """
        rest = dict(batch)
        given = rest.pop(RANDOM, None)
        if given is None and RANDOM not in self.arrays:
            return rest
        if given is None or RANDOM not in self.arrays:
            wanted = f"float32{list(self._random.shape)}" if RANDOM in self.arrays else "none"
            raise ValueError(f"a training batch of this plan takes {RANDOM!r}: {wanted}")
        if given.dtype != np.float32 or given.shape != self._random.shape:
            raise ValueError(
                f"{RANDOM!r} is {given.dtype}{list(given.shape)}; the plan takes "
                f"float32{list(self._random.shape)}"
            )
        if not (float(given.min()) >= 0.0 and float(given.max()) < 1.0):
            raise ValueError(f"{RANDOM!r} needs numbers from 0 to below 1")
        self._random[:] = given
        return rest

    def load_batch(self, batch: Mapping[str, Array]) -> int:
        """Copy a batch with its target and weights.

        Parameters
        ----------
        batch : mapping of str to ndarray
            Inputs, ``target``, and optionally ``weight``.

        Returns
        -------
        int
            Its number of rows, 1 to ``batch_size``.

        Raises
        ------
        ValueError
            Naming the array that does not fit and how.
        """
        rows = _check(batch, self._batch, optional=WEIGHT)
        if not 1 <= rows <= self.batch_size:
            raise ValueError(
                f"a batch has 1 to {self.batch_size} rows under this plan, not {rows}: split it"
            )
        # Weights first: nothing is copied of a batch that is then refused.
        weight = self._weight
        if WEIGHT in batch:
            given = batch[WEIGHT]
            _check_weights(given, rows)
            weight[:rows] = given
        else:
            weight[:rows] = 1.0
        weight[rows:] = 0.0
        self._copy(batch, self._batch, 0, rows)
        return rows

    def check_inputs(self, inputs: Mapping[str, Array]) -> int:
        """Return the number of rows of inputs without a target; any number is fine.

        Raises
        ------
        ValueError
            Naming the array that does not fit and how.
        """
        return _check(inputs, self._inputs)

    def load_inputs(self, inputs: Mapping[str, Array], start: int, stop: int) -> None:
        """Copy rows ``start`` to ``stop`` of inputs that :meth:`check_inputs` accepted."""
        self._copy(inputs, self._inputs, start, stop)

    def _copy(
        self, batch: Mapping[str, Array], names: Iterable[str], start: int, stop: int
    ) -> None:
        rows = stop - start
        for name in names:
            array, given = self.arrays[name], batch[name]
            array[:rows] = given[start:stop]
            if rows < self.batch_size:
                array[rows:] = given[start]


def _check(
    batch: Mapping[str, Array], specs: Mapping[str, TensorSpec], *, optional: str | None = None
) -> int:
    for name in batch:
        if name not in specs and name != optional:
            raise ValueError(f"unknown array {name!r}; the plan takes {_names(specs, optional)}")
    rows = -1
    for name, spec in specs.items():
        if name not in batch:
            raise ValueError(
                f"the array {name!r} is missing; the plan takes {_names(specs, optional)}"
            )
        array = batch[name]
        kind = getattr(array, "dtype", type(array).__name__)
        if kind != spec.dtype:
            raise ValueError(
                f"{name!r} is {kind}; the plan takes a numpy array of {spec.dtype}: convert it with "
                f"numpy.asarray({name}, dtype={spec.dtype!r})"
            )
        if array.ndim == 0 or array.shape[1:] != spec.shape:
            expected = ", ".join(["rows", *map(str, spec.shape)])
            raise ValueError(f"{name!r} has shape {array.shape}; the plan takes ({expected})")
        if rows < 0:
            rows = len(array)
        elif len(array) != rows:
            raise ValueError(f"{name!r} has {len(array)} rows, the arrays before it have {rows}")
    return rows


def _check_weights(weight: Array, rows: int) -> None:
    kind = getattr(weight, "dtype", type(weight).__name__)
    if kind != np.float32:
        raise ValueError(f"'{WEIGHT}' is {kind}; give a numpy array of float32")
    if weight.shape != (rows,):
        raise ValueError(f"'{WEIGHT}' has shape {weight.shape}; one number per row is ({rows},)")
    total = float(weight.sum())
    # A sum is finite and positive only if no weight is NaN or infinite and not all are 0.
    if not 0.0 < total < float("inf") or float(weight.min()) < 0.0:
        raise ValueError(f"'{WEIGHT}' needs finite values of at least 0, and one above 0")


def _names(specs: Mapping[str, TensorSpec], optional: str | None) -> str:
    names = ", ".join(map(repr, specs))
    return f"{names} and optionally {optional!r}" if optional else names
