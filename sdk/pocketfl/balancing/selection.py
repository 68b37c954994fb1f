"""Balancing on the device: which examples train, and what their losses count."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pocketfl.balancing.spec import Balancing
from pocketfl.errors import FeatureError
from pocketfl.runtimes.batches import WEIGHT
from pocketfl.store.selection import choose

_COIN_STREAM: Final = 0x62616C63
"""Keeps the coins of examples apart from other choices of the same seed ("balc")."""
_CUT_STREAM: Final = 0x62616C74
MAX_CANDIDATES: Final = 100_000
"""Most examples that are looked at to find those that train."""

_Arrays = Mapping[str, NDArray[Any]]


def candidates(balancing: Balancing | None, *, limit: int) -> int:
    """Return how many examples to look at so that about ``limit`` of them are kept."""
    if balancing is None:
        return limit
    return max(limit, min(MAX_CANDIDATES, math.ceil(limit / balancing.kept_share)))


def apply_balancing(
    arrays: _Arrays, balancing: Balancing | None, *, limit: int, seed: int
) -> dict[str, NDArray[Any]]:
    """Keep or weigh examples by their class.

    Parameters
    ----------
    arrays : mapping of str to ndarray
        Inputs and ``target``, all with the same number of rows.
    balancing : Balancing or None
        The plan's policy; None keeps everything.
    limit : int
        Most examples to return.
    seed : int
        The device's own, not negative: the same seed keeps the same examples.

    Returns
    -------
    dict of str to ndarray
        The arrays, with fewer rows for ``keep`` and with ``weight`` (float32, one per row) for
        ``weight``. Rows keep their order.

    Raises
    ------
    FeatureError
        If a target is none of the classes.
    """
    rows = len(arrays["target"])
    if balancing is None:
        kept = choose(rows, limit=limit, seed=(seed, _CUT_STREAM))
        return _take(arrays, kept) if len(kept) < rows else dict(arrays)
    target = arrays["target"].reshape(rows, -1)
    codes = target[:, 0].astype(np.int64) if rows else np.zeros(0, np.int64)
    if target.shape[1:] != (1,) or not (
        (codes == target[:, 0]).all() and (codes >= 0).all() and (codes < balancing.classes).all()
    ):
        raise FeatureError(
            f"the plan balances {balancing.classes} classes, and the target of an example is none of "
            f"0 to {balancing.classes - 1}"
        )
    factors = np.array(balancing.factors)[codes]
    if balancing.method == "weight":
        weighed = {**arrays, WEIGHT: factors.astype(np.float32)}
        return _take(weighed, choose(rows, limit=limit, seed=(seed, _CUT_STREAM)))
    # Of the raw stream, which NumPy promises to keep (NEP 19): a session that resumes after an update
    # has to keep the same examples.
    coins = np.random.PCG64((seed, _COIN_STREAM)).random_raw(rows) / 2.0**64
    kept = np.flatnonzero(coins < factors)
    return _take(arrays, kept[choose(len(kept), limit=limit, seed=(seed, _CUT_STREAM))])


def _take(arrays: _Arrays, rows: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
    return {name: array[rows] for name, array in arrays.items()}
