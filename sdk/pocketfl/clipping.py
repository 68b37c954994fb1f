"""From a float update to integers on the plan's grid, never above the plan's bound.

Clipping in floating point bounds a norm only up to rounding, and rounding to a grid can push a
clipped vector over its bound again. The privacy guarantee hangs on that bound, so it is checked here
where it is exact: on the integers that leave the device.

Each coordinate is rounded up or down at random so that its expectation is the coordinate itself
(stochastic rounding, as in Kairouz, Liu and Steinke 2021, "The Distributed Discrete Gaussian Mechanism
for Federated Learning with Secure Aggregation"); a rounding above the bound is drawn again, and after
:data:`MAX_ROUNDINGS` draws everything is rounded toward zero, which cannot be above it.

Where a plan lets the clip norm adapt, the vector has one more coordinate than the update: plus or minus
``count_weight``, whether the update was within the clip norm. The bound holds for all of it.

Where a plan has an encoding, the vector is rotated first, and its coordinates have few bits. One that
they do not hold is cut off, which is the only bias: of an update at the clip norm it takes about one
coordinate in a million (``pocketfl bench encoding`` measures it).
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from pocketfl.encoding.rotation import Rotation
from pocketfl.errors import ReportError
from pocketfl.plan.aggregation import AggregationSpec

GridVector: TypeAlias = NDArray[np.int16]
RandomBytes: TypeAlias = Callable[[int], bytes]
"""Returns that many bytes from a cryptographic generator."""

MAX_ROUNDINGS: Final = 8
"""Draws before rounding toward zero."""

WORST_VARIANCE: Final = 1 / 4
"""Variance of rounding a coordinate that lies in the middle between two units."""
ROTATED_VARIANCE: Final = 0.172
"""Mean variance of rounding coordinates that lie anywhere between two units (1/6), with some room: what
to expect after a rotation."""

_EXACT_SQUARES: Final = 2**14
"""Squares of int16 that are summed at a time: below 2**53, and within the processor's cache."""
_ROUNDED_AT_ONCE: Final = 2**14
"""Coordinates that are rounded at a time: their temporaries stay in the processor's cache, and a phone
need not find memory for several copies of a large update."""
_SPREAD: Final = 6.0
"""Width of the margin in standard deviations of the squared norm's linear term."""


def squared_norm(values: NDArray[np.integer]) -> int:
    """Return the exact squared L2 norm of a vector of grid units.

    Parameters
    ----------
    values : ndarray of integer, shape (P,)
        Each at most 2**20 in size. With the most parameters that a plan may have (50 million) and the
        largest norm bound (32,767) the sum stays below 2**63.

    Returns
    -------
    int
        The sum of squares, without rounding.
    """
    if values.dtype.itemsize > 2:
        wide = values.astype(np.int64)
        return int(np.dot(wide, wide))
    # A float64 holds every whole number below 2**53, so that these sums are exact in any order, and
    # processors multiply floats several times as fast.
    total = 0
    for start in range(0, values.size, _EXACT_SQUARES):
        part = values[start : start + _EXACT_SQUARES].astype(np.float64)
        total += int(np.dot(part, part))
    return total


def is_within_bound(values: NDArray[np.integer], spec: AggregationSpec) -> bool:
    """Return whether the integer norm is at most ``spec.norm_bound``; device and tier share this."""
    return squared_norm(values) <= spec.norm_bound**2


def rounding_limit(length: int, norm_bound: int, *, variance: float = WORST_VARIANCE) -> float:
    """Return the norm in grid units to which an update is clipped before it is rounded.

    A little below ``norm_bound``, so that drawing again is rare (about 1e-8 of all reports). Rounding a
    vector of norm ``n`` adds to its squared norm at most ``min(length * variance, n * sqrt(length))``
    in expectation and a zero-mean term of standard deviation at most ``n``; the limit leaves six of
    them. For 5,000 parameters and a bound of 30,000 it is 29,997, which costs 0.01 % of the update; for
    50,000 parameters and the bound of 332 that goes with 4 bits it is 310, or 316 for the variance
    that rotated coordinates have.

    Parameters
    ----------
    length : int
        Number of parameters.
    norm_bound : int
        Largest integer norm.
    variance : float
        Of the rounding of one coordinate, in squared grid units; the worst there is by default.

    Returns
    -------
    float
        In grid units; above 0 and below ``norm_bound``.
    """
    half = _SPREAD / 2
    room = norm_bound**2 - length * variance
    fine = math.sqrt(half**2 + room) - half if room > 0 else 0.0
    # On a grid that is coarse for so many parameters, the other bound on the added norm is the lower.
    half_coarse = (_SPREAD + math.sqrt(length)) / 2
    coarse = math.sqrt(half_coarse**2 + norm_bound**2) - half_coarse
    return max(fine, coarse)


def clip_to_grid(
    update: NDArray[np.floating],
    spec: AggregationSpec,
    *,
    rotation: Rotation | None = None,
    random: RandomBytes = os.urandom,
) -> GridVector:
    """Clip an update to the plan's norm and round it to the plan's grid.

    Parameters
    ----------
    update : ndarray of float32 or float64, shape (P,)
        Trained parameters minus the ones that training started from, in the model's own units.
    spec : AggregationSpec
        Names the clip norm and the grid.
    rotation : Rotation, optional
        The round's; goes with an encoding of the plan, and only with it.
    random : callable, optional
        Source of random bytes; the operating system's cryptographic generator by default.

    Returns
    -------
    ndarray of int16, shape (P,)
        In units of ``spec.grid_step``. Its integer L2 norm is at most ``spec.norm_bound``, whatever the
        update was. Its expectation is the clipped update to within 2**-32 of a unit per coordinate.
        Of shape (P + 1,) where the clip norm adapts.
        With an encoding it is rotated, has shape (P',), and its coordinates fit their bits.

    Raises
    ------
    ReportError
        If the update is not a vector of floats, is empty, or holds a value that is not finite.
    """
    if update.ndim != 1 or update.size == 0 or not np.issubdtype(update.dtype, np.floating):
        raise ReportError(
            f"an update is a vector of floats, not {update.dtype} of shape {update.shape}"
        )
    if (rotation is None) != (spec.encoding is None):
        raise ReportError("a rotation goes with a plan that has an encoding, and only with it")
    exact = update.astype(np.float64, copy=False)
    peak = float(max(exact.max(), -exact.min()))
    if not math.isfinite(peak):
        bad = int(np.count_nonzero(~np.isfinite(exact)))
        raise ReportError(
            f"the update has {bad} values that are not finite; lower the learning rate or the gradient "
            "clip of the plan"
        )
    # Dividing by the largest coordinate first keeps squares of huge and tiny values representable.
    relative = exact if peak == 0.0 else exact / peak
    if spec.adaptive is not None:
        scaled = _scale_with_count(relative, peak, spec, rotation)
    else:
        if rotation is not None:
            relative = rotation.apply(relative)
        if peak == 0.0:
            return np.zeros(relative.size, dtype=np.int16)
        scaled = _scale_to_grid(relative, peak, spec)
    for _ in range(MAX_ROUNDINGS):
        rounded = _round_stochastically(scaled, random)
        if is_within_bound(rounded, spec):
            return rounded
    toward_zero = np.trunc(scaled).astype(np.int16)
    if not is_within_bound(toward_zero, spec):  # the limit lies below the bound, so this cannot be
        raise ReportError("rounding toward zero left the update above its bound")
    return toward_zero


def _scale_to_grid(
    relative: NDArray[np.float64], peak: float, spec: AggregationSpec
) -> NDArray[np.float64]:
    norm = math.sqrt(float(np.dot(relative, relative)))
    if spec.encoding is None:
        # In place: each temporary of a large model is memory that a phone has to find.
        return _clip(relative, norm, peak, spec, variance=WORST_VARIANCE, into=relative)
    # Rotated coordinates hardly ever lie where rounding is worst. Where they do, room is made for that.
    scaled = _clip(relative, norm, peak, spec, variance=ROTATED_VARIANCE)
    if not _has_room(scaled, spec.norm_bound):
        scaled = _clip(relative, norm, peak, spec, variance=WORST_VARIANCE)
    return np.clip(scaled, -spec.encoding.limit, spec.encoding.limit)


def _scale_with_count(
    relative: NDArray[np.float64], peak: float, spec: AggregationSpec, rotation: Rotation | None
) -> NDArray[np.float64]:
    """Clip an update to what the count leaves it of the bound, put the count behind it, and rotate."""
    if rotation is None or spec.encoding is None:
        return _clip_beside_count(relative, peak, spec, relative.size + 1, variance=WORST_VARIANCE)
    for variance in (ROTATED_VARIANCE, WORST_VARIANCE):
        turned = rotation.apply(
            _clip_beside_count(relative, peak, spec, rotation.padded, variance=variance)
        )
        if _has_room(turned, spec.norm_bound):
            break
    return np.clip(turned, -spec.encoding.limit, spec.encoding.limit)


def _clip_beside_count(
    relative: NDArray[np.float64],
    peak: float,
    spec: AggregationSpec,
    length: int,
    *,
    variance: float,
) -> NDArray[np.float64]:
    norm = math.sqrt(float(np.dot(relative, relative)))
    weight = spec.count_weight
    whole = rounding_limit(length, spec.norm_bound, variance=variance)
    limit = math.sqrt(max(whole**2 - weight**2, 0.0))
    factor = peak / spec.grid_step
    clipped = relative * (limit / norm) if norm * factor > limit else relative * factor
    within = peak * norm <= spec.clip_norm
    return np.append(clipped, weight if within else -weight)


def _clip(
    relative: NDArray[np.float64],
    norm: float,
    peak: float,
    spec: AggregationSpec,
    *,
    variance: float,
    into: NDArray[np.float64] | None = None,
) -> NDArray[np.float64]:
    limit = rounding_limit(relative.size, spec.norm_bound, variance=variance)
    if peak * norm > limit * spec.grid_step:
        return np.multiply(relative, limit / norm, out=into)
    grown = np.multiply(relative, peak, out=into)
    return np.divide(grown, spec.grid_step, out=grown)


def _has_room(scaled: NDArray[np.float64], norm_bound: int) -> bool:
    """Return whether six standard deviations of the rounded vector's squared norm stay within."""
    fraction = scaled - np.floor(scaled)
    variance = fraction * (1 - fraction)
    mean = float((np.square(scaled) + variance).sum())
    # Rounding moves a coordinate x to one of two values, so its square moves linearly with it.
    slope = 2 * scaled + 1 - 2 * fraction
    deviation = math.sqrt(float((variance * np.square(slope)).sum()))
    return mean + _SPREAD * deviation <= norm_bound**2


def _round_stochastically(scaled: NDArray[np.float64], random: RandomBytes) -> GridVector:
    """Round each coordinate up or down; none is beyond the norm bound, so that int16 holds them."""
    rounded = np.empty(scaled.size, np.int16)
    draws = np.frombuffer(random(4 * scaled.size), dtype="<u4")
    for start in range(0, scaled.size, _ROUNDED_AT_ONCE):
        stop = start + _ROUNDED_AT_ONCE
        part = scaled[start:stop]
        below = np.floor(part)
        # 32 random bits against the fraction's first 32: up with probability fraction, to within
        # 2**-32; a fraction of 0 is never rounded up, so zero stays zero.
        fraction = part - below
        fraction *= 2.0**32
        below += draws[start:stop] < fraction
        rounded[start:stop] = below
    return rounded
