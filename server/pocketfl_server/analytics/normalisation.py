"""From learned distributions to the transforms of a bundle."""

from __future__ import annotations

import math
from typing import Final

from pocketfl.features.transforms import Scale, Source, Standardise
from pocketfl_server.analytics.estimators import Distribution, MomentEstimates

LOWER_SHARE: Final = 0.01
UPPER_SHARE: Final = 0.99


def scale_between_quantiles(
    distribution: Distribution,
    *,
    field: str,
    source: Source = "device",
    lower: float = LOWER_SHARE,
    upper: float = UPPER_SHARE,
) -> Scale:
    """Clamp a field to two of its quantiles and map it to ``[-1, 1]``.

    Parameters
    ----------
    distribution : Distribution
        Of the field, as a private query found it.
    field, source : str
        Whose transform it becomes.
    lower, upper : float
        Shares of the two quantiles.

    Returns
    -------
    Scale
        At least one bin of the query wide, so that a field that hardly varies is not blown up.

    Raises
    ------
    ValueError
        If the shares are in the wrong order, or noise hides the distribution.
    """
    if not 0 <= lower < upper <= 1:
        raise ValueError(f"shares must rise from 0 to 1, not {lower} and {upper}")
    if math.isnan(float(distribution.below[-1])):
        raise ValueError(
            f"noise hides the distribution of {field!r}: ask more devices, or fewer things at once"
        )
    width = float(distribution.edges[1] - distribution.edges[0])
    low, high = distribution.quantile(lower), distribution.quantile(upper)
    if high - low < width:
        middle = (low + high) / 2
        low, high = middle - width / 2, middle + width / 2
    return Scale(field=field, source=source, low=low, high=high)


def standardise_by_moments(
    moments: MomentEstimates, *, field: str, source: Source = "device", limit: float = 3.0
) -> Standardise:
    """Subtract a field's mean and divide by its standard deviation.

    Parameters
    ----------
    moments : MomentEstimates
        Of the field, as a private query found them.
    field, source : str
        Whose transform it becomes.
    limit : float
        Where the result is clamped.

    Returns
    -------
    Standardise
        The transform.

    Raises
    ------
    ValueError
        If noise hides the moments, or says that the field does not vary.
    """
    mean, deviation = moments.mean.value, moments.deviation.value
    if math.isnan(mean) or math.isnan(deviation) or deviation <= 0:
        raise ValueError(
            f"noise hides how {field!r} varies: ask more devices, or give the query a narrower range"
        )
    return Standardise(field=field, source=source, mean=mean, deviation=deviation, limit=limit)
