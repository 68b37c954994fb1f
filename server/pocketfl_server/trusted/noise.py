"""Discrete Gaussian noise on an integer sum, by OpenDP's exact sampler.

The sampler (Canonne, Kamath and Steinke 2020, arXiv 2004.00010) works on rational numbers and draws
from the operating system's cryptographic generator, so there is no floating-point shape for an attacker
to find in the noise. It costs about 25 microseconds for each coordinate.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING, Final

import numpy as np

from pocketfl_server.trusted.releases import IntegerVector

if TYPE_CHECKING:
    from opendp.mod import Measurement

SUM_BOUND: Final = 2**62
"""Largest size of a coordinate of the exact sum.

A report's coordinate is at most 32,767, so the bound holds for any sum of up to 1.4e14 reports. The
noise has a standard deviation of at most 1000 x 32,767 x 256 < 2**33 (the manifest's own bounds, and
the weights of asynchronous rounds); it would have to exceed 2**29 of them before sum and noise leave
int64.
"""

_CHUNK: Final = 65_536
"""Coordinates that go through Python lists at a time, to keep them at a few megabytes."""


def add_noise(total: IntegerVector, *, noise_multiplier: float, norm_bound: int) -> IntegerVector:
    """Add discrete Gaussian noise to an exact sum of reports.

    Parameters
    ----------
    total : ndarray of int64, shape (P,)
        The exact sum; each coordinate at most :data:`SUM_BOUND` in size.
    noise_multiplier : float
        Standard deviation over ``norm_bound``.
    norm_bound : int
        Largest L2 norm of one report, in grid units.

    Returns
    -------
    ndarray of int64, shape (P,)
        A new vector: ``total`` plus independent samples of the discrete Gaussian with scale
        ``noise_multiplier * norm_bound``.

    Raises
    ------
    OverflowError
        If a coordinate is above the bound.
    ValueError
        If the vector is not int64, or the scale is not positive.
    """
    if total.dtype != np.int64 or total.ndim != 1:
        raise ValueError("a sum is one vector of int64")
    if not (noise_multiplier > 0 and norm_bound > 0):
        raise ValueError("noise needs a positive multiplier and norm bound")
    if total.size and (int(total.max()) > SUM_BOUND or int(total.min()) < -SUM_BOUND):
        raise OverflowError("a coordinate of the sum is above 2**62, where int64 may overflow")
    measurement = _measurement(noise_multiplier * norm_bound, float(norm_bound))
    noised = np.empty_like(total)
    for start in range(0, total.size, _CHUNK):
        part = slice(start, start + _CHUNK)
        noised[part] = measurement(total[part].tolist())
    return noised


@lru_cache(maxsize=64)
def _measurement(scale: float, sensitivity: float) -> Measurement:
    # opendp.prelude would load what OpenDP can do with pandas and scikit-learn: 100 MB.
    from opendp.domains import atom_domain, vector_domain
    from opendp.measurements import make_gaussian
    from opendp.metrics import l2_distance
    from opendp.mod import enable_features

    enable_features("contrib")
    space = vector_domain(atom_domain(T="i64")), l2_distance(T="f64")
    measurement = make_gaussian(*space, scale=scale)
    # OpenDP's own account of what it built (zero-concentrated privacy loss rho) must be ours.
    rho = measurement.map(sensitivity)
    if not math.isclose(rho, (sensitivity / scale) ** 2 / 2, rel_tol=1e-9):
        raise RuntimeError(f"the noise sampler states rho={rho}, which is not the calibrated one")
    return measurement
