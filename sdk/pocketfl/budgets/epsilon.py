"""How much privacy this device has spent, as it can count it by itself.

Each contribution goes into a sum with Gaussian noise. Under the zero-out relation, where a report
is compared with a report of zeros, the report's norm bound is the sensitivity, so with the noise's
standard deviation over that bound called sigma one contribution is ``1 / (2 sigma^2)``-zCDP (Bun
and Steinke 2016, arXiv 1605.02065; for the discrete Gaussian Canonne, Kamath and Steinke 2020,
arXiv 2004.00010). zCDP adds up over contributions (Bun and Steinke), also when what is asked next
depends on what came before, as long as the sum stays within a bound that was fixed (Feldman and
Zrnic 2021, arXiv 2008.11193).

Nothing is amplified by sampling: the back end sees who checks in. Nor is anything forgiven for
rounds that were never released: the device does not learn that.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Final

import numpy as np

# From 1.01, below which the conversion is not stable, to 10^6. Every order gives a bound that
# holds, so the spacing (0.9 % in order - 1) only decides how tight the best of them is.
_ORDERS: Final = 1 + np.geomspace(0.01, 1e6, 2048)
_EXCESS: Final = _ORDERS - 1


def contribution_rho(noise_multiplier: float) -> float:
    """Return the zCDP parameter rho of one contribution: ``1 / (2 noise_multiplier^2)``.

    Parameters
    ----------
    noise_multiplier : float
        Standard deviation of the sum's noise over the norm bound of one report; above 0.
    """
    if not (math.isfinite(noise_multiplier) and noise_multiplier > 0):
        raise ValueError(f"noise_multiplier must be above 0, not {noise_multiplier!r}")
    return 1 / (2 * noise_multiplier**2)


@lru_cache(maxsize=1024)
def epsilon_of(rho: float, *, delta: float) -> float:
    """Return an epsilon such that ``rho``-zCDP implies (epsilon, delta)-differential privacy.

    ``min over a > 1 of  a rho + log(1 - 1/a) - log(delta a) / (a - 1)``: zCDP bounds the Rényi
    divergence of order a by ``a rho``, converted as in Canonne, Kamath and Steinke 2020 (arXiv
    2004.00010, proposition 12).

    Parameters
    ----------
    rho : float
        Sum of the contributions' :func:`contribution_rho`.
    delta : float
        Above 0, below 1.
    """
    if not 0 < delta < 1:
        raise ValueError(f"delta must be above 0 and below 1, not {delta!r}")
    if not rho >= 0:
        raise ValueError(f"rho must be at least 0, not {rho!r}")
    if rho == 0:
        return 0.0
    bounds = _ORDERS * rho + np.log1p(-1 / _ORDERS) - np.log(delta * _ORDERS) / _EXCESS
    return max(0.0, float(bounds.min()))
