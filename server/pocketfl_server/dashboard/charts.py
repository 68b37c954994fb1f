"""Geometry of the dashboard's charts; the templates draw it, the style sheet colours it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

WIDTH: Final = 360
HEIGHT: Final = 170
_LEFT, _RIGHT, _TOP, _BOTTOM = 40.0, 12.0, 12.0, 26.0


@dataclass(frozen=True, kw_only=True)
class Tick:
    """A label on an axis, and where it stands."""

    place: float
    label: str


@dataclass(frozen=True, kw_only=True)
class Mark:
    """A value on the chart: its place, the ends of its interval, and what it says."""

    x: float
    y: float
    low: float
    high: float
    label: str


@dataclass(frozen=True, kw_only=True)
class Chart:
    """A line with a band around it, in a box of :data:`WIDTH` by :data:`HEIGHT`.

    Attributes
    ----------
    line, band : str
        SVG paths; the band is empty where the values have no intervals.
    marks : tuple of Mark
        The values.
    across, up : tuple of Tick
        Of the two axes.
    limit : float or None
        Where a horizontal line stands for a bound.
    summary : str
        The chart in a sentence, for those who cannot see it.
    """

    line: str
    band: str
    marks: tuple[Mark, ...]
    across: tuple[Tick, ...]
    up: tuple[Tick, ...]
    limit: float | None
    summary: str


@dataclass(frozen=True, kw_only=True)
class Value:
    """A value with its interval (or itself three times) at a whole number on the axis."""

    at: int
    value: float
    low: float
    high: float


def draw_chart(
    values: Sequence[Value],
    *,
    name: str,
    axis: str,
    bottom: float | None = None,
    limit: float | None = None,
) -> Chart | None:
    """Return a chart; None without values.

    Parameters
    ----------
    values : sequence of Value
        By rising place.
    name, axis : str
        What is drawn, and over what, for the summary.
    bottom : float, optional
        Where the vertical axis begins; by default a little below the lowest value.
    limit : float, optional
        A bound that is drawn as well.
    """
    if not values:
        return None
    highs = [value.high for value in values] + ([] if limit is None else [limit])
    low = min(value.low for value in values) if bottom is None else bottom
    high = max(highs)
    margin = 0.08 * (high - low) or 0.05 * abs(high) or 0.5
    high += margin
    if bottom is None:
        low -= margin
    first, last = values[0].at, values[-1].at

    def across(at: float) -> float:
        if last == first:
            return (_LEFT + WIDTH - _RIGHT) / 2
        return _LEFT + (at - first) / (last - first) * (WIDTH - _LEFT - _RIGHT)

    def up(value: float) -> float:
        return HEIGHT - _BOTTOM - (value - low) / (high - low) * (HEIGHT - _TOP - _BOTTOM)

    marks = tuple(
        Mark(
            x=round(across(value.at), 1),
            y=round(up(value.value), 1),
            low=round(up(value.low), 1),
            high=round(up(value.high), 1),
            label=_say(value, axis=axis),
        )
        for value in values
    )
    banded = any(mark.low != mark.high for mark in marks) and len(marks) > 1
    edge = [(m.x, m.high) for m in marks] + [(m.x, m.low) for m in reversed(marks)]
    newest = values[-1]
    return Chart(
        line=_path([(mark.x, mark.y) for mark in marks]),
        band=_path(edge) + "Z" if banded else "",
        marks=marks,
        across=tuple(
            Tick(place=round(across(at), 1), label=str(at)) for at in _whole_steps(first, last)
        ),
        up=tuple(
            Tick(place=round(up(value), 1), label=f"{value:.6g}")
            for value in _round_steps(low, high)
        ),
        limit=None if limit is None else round(up(limit), 1),
        summary=f"{name} over {axis}; latest: {_say(newest, axis=axis)}",
    )


def _say(value: Value, *, axis: str) -> str:
    said = f"{axis} {value.at}: {value.value:.4g}"
    if value.low != value.high:
        said += f" (95 % interval {value.low:.4g} to {value.high:.4g})"
    return said


def _path(points: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{x:g} {y:g}" for x, y in points)


def _round_steps(low: float, high: float) -> list[float]:
    """Return round numbers between two: multiples of 1, 2 or 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10((high - low) / 6))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= (high - low) / 6)
    first = math.ceil(low / step - 1e-9)
    return [number * step for number in range(first, math.floor(high / step + 1e-9) + 1)]


def _whole_steps(first: int, last: int) -> list[int]:
    """Return at most six whole numbers that stand evenly, the ends among them where they fit."""
    step = max(1, -(-(last - first) // 5))
    return list(range(first, last + 1, step))
