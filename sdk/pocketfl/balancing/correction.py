"""The prior correction: a balanced model's scores as those of a model of the fleet as it is.

Training on examples kept (or weighed) in proportion to ``factors[c]`` teaches
``q(c | x)`` in proportion to ``factors[c] p(c | x)``. So ``p(c | x)`` is ``q(c | x) / factors[c]``,
normalised; for logits that is a shift by ``-log factors[c]`` (Elkan 2001, theorem 2; King and Zeng
2001, Political Analysis 9(2)). It moves all scores alike, so it changes no ranking and no AUC.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pocketfl.balancing.spec import Balancing


def correct_outputs(
    outputs: Mapping[str, NDArray[Any]], balancing: Balancing | None
) -> dict[str, NDArray[Any]]:
    """Take the balancing back out of a model's outputs.

    Parameters
    ----------
    outputs : mapping of str to ndarray
        By name, one row per example.
    balancing : Balancing or None
        The plan's policy; None changes nothing.

    Returns
    -------
    dict of str to ndarray
        New arrays of the same types and shapes; other outputs as they are.

    Raises
    ------
    ValueError
        If the model has no such output, or it does not fit the number of classes.
    """
    corrected = dict(outputs)
    if balancing is None:
        return corrected
    if balancing.output not in outputs:
        raise ValueError(
            f"the plan balances the output {balancing.output!r}, and its model has only "
            f"{sorted(outputs)}"
        )
    raw = outputs[balancing.output]
    numbers = raw.reshape(len(raw), -1).astype(np.float64)
    factors = np.array(balancing.factors)
    if numbers.shape[1] == 1 and balancing.classes == 2:
        made = _of_one(numbers, factors[1] / factors[0], scale=balancing.scale)
    elif numbers.shape[1] == balancing.classes:
        made = _of_all(numbers, factors, scale=balancing.scale)
    else:
        raise ValueError(
            f"output {balancing.output!r} has {numbers.shape[1]} numbers per example, and the plan "
            f"balances {balancing.classes} classes"
        )
    corrected[balancing.output] = made.astype(raw.dtype).reshape(raw.shape)
    return corrected


def _of_one(numbers: NDArray[np.float64], odds_factor: float, *, scale: str) -> NDArray[np.float64]:
    made: NDArray[np.float64] = numbers - np.log(odds_factor)
    if scale == "probability":
        made = numbers / (numbers + (1 - numbers) * odds_factor)
    return made


def _of_all(
    numbers: NDArray[np.float64], factors: NDArray[np.float64], *, scale: str
) -> NDArray[np.float64]:
    made: NDArray[np.float64] = numbers - np.log(factors)
    if scale == "probability":
        made = numbers / factors
        made /= made.sum(axis=1, keepdims=True)
    return made
