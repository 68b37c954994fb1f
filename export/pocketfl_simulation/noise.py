"""The noise of a simulated release: production's distribution, drawn for a whole vector at once.

The trusted tier's exact sampler takes about 25 microseconds for each coordinate, which is more than a
small fleet's training. What it guards against, an attacker who finds the shape of floating-point
numbers in what is released, has nothing to find in a simulation. A rounded normal number has the
probabilities of the discrete Gaussian but for a factor of about ``1 + (1 - z^2) / (24 scale^2)``, ``z``
standard deviations from the middle (the second term of the midpoint rule), which nobody can tell at
the scales that grids have.
"""

from __future__ import annotations

import os
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from pocketfl_server.trusted.noise import add_noise

LEAST_SCALE: Final = 100.0
"""Grid units from which on a rounded normal number stands for the discrete Gaussian: of all
probability less than 1e-5 lies elsewhere. Below, the exact sampler draws."""


def draw_noise(length: int, *, noise_multiplier: float, norm_bound: int) -> NDArray[np.int64]:
    """Return noise for a sum, from the operating system's cryptographic generator.

    Parameters
    ----------
    length : int
        Number of coordinates.
    noise_multiplier : float
        Standard deviation over ``norm_bound``.
    norm_bound : int
        Largest L2 norm of one report, in grid units.

    Returns
    -------
    ndarray of int64, shape (length,)
        Independent samples with scale ``noise_multiplier * norm_bound``.
    """
    scale = noise_multiplier * norm_bound
    if scale < LEAST_SCALE:
        zeros = np.zeros(length, dtype=np.int64)
        return add_noise(zeros, noise_multiplier=noise_multiplier, norm_bound=norm_bound)
    # The middle of one of 2**52 equal parts of (0, 1): never 0 nor 1, and symmetric.
    raw = np.frombuffer(os.urandom(8 * length), dtype=np.uint64) >> np.uint64(12)
    uniform = (raw.astype(np.float64) + 0.5) * 2.0**-52
    noise: NDArray[np.int64] = np.rint(ndtri(uniform) * scale).astype(np.int64)
    return noise
