"""Who takes part in a round: every device's coin, its cap, and its distance from its last round."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pocketfl.plan.manifest import Manifest


class Cohorts:
    """Poisson sampling of a whole fleet at once; remembers only devices that have taken part.

    A device's coin (:mod:`pocketfl.sampling`) is independent of all others', so their number is
    binomial and, given that, every set of so many devices equally likely.

    Parameters
    ----------
    manifest : Manifest
        Names the probability, the cap and the separation.
    devices : int
        How many toss a coin.
    seed : int
        Of all coins.
    """

    def __init__(self, manifest: Manifest, *, devices: int, seed: int) -> None:
        self._aggregation = manifest.aggregation
        tree = None if manifest.dp is None else manifest.dp.tree
        self._separation = 1 if tree is None else tree.min_separation
        self._devices = devices
        self._seed = seed
        self._heads: dict[int, int] = {}
        self._last: dict[int, int] = {}

    def toss(self, number: int) -> NDArray[np.int64]:
        """Return the devices that take part in a round, rising, and count that against their caps."""
        generator = np.random.default_rng([self._seed, number, 1])
        probability = self._aggregation.sampling_probability
        if probability == 1.0:
            heads = np.arange(self._devices)
        else:
            count = generator.binomial(self._devices, probability)
            heads = np.sort(
                generator.choice(self._devices, size=count, replace=False, shuffle=False)
            )
        cohort = [device for device in heads.tolist() if self._may(device, number)]
        for device in cohort:
            self._heads[device] = self._heads.get(device, 0) + 1
            self._last[device] = number
        return np.array(cohort, dtype=np.int64)

    def _may(self, device: int, number: int) -> bool:
        if self._heads.get(device, 0) >= self._aggregation.max_participations:
            return False
        return device not in self._last or number - self._last[device] >= self._separation
