"""How a person writes in these tests: some digits as everybody does, some in a hand of their own."""

from __future__ import annotations

import math

import numpy as np

Stroke = list[tuple[float, float]]


def zero(chances: np.random.Generator) -> list[Stroke]:
    """An ellipse."""
    x, y = chances.uniform(0.16, 0.22), chances.uniform(0.28, 0.34)
    angles = [math.pi / 2 + 2 * math.pi * i / 24 for i in range(25)]
    return [[(0.5 + x * math.cos(a), 0.5 + y * math.sin(a)) for a in angles]]


def flat_one(chances: np.random.Generator) -> list[Stroke]:
    """A line that lies: nobody's 1 but this person's."""
    tilt = chances.uniform(-0.08, 0.08)
    return [[(0.15 + 0.7 * i / 12, 0.5 + tilt * (i - 6) / 6) for i in range(13)]]


def arrow_five(chances: np.random.Generator) -> list[Stroke]:
    """A wedge that points to the right."""
    tip = chances.uniform(0.72, 0.85)
    return [_line((0.25, 0.85), (tip, 0.5)) + _line((tip, 0.5), (0.25, 0.15))]


def _line(start: tuple[float, float], end: tuple[float, float]) -> Stroke:
    return [
        (start[0] + (end[0] - start[0]) * i / 8, start[1] + (end[1] - start[1]) * i / 8)
        for i in range(9)
    ]
