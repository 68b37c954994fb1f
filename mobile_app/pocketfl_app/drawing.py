"""From strokes of a finger to the image that the model reads, as MNIST's were made.

The digit is scaled so that its longer side has 20 pixels, drawn with a soft pen, and moved so that its
centre of mass is the centre of the 28 x 28 pixels (LeCun et al., http://yann.lecun.com/exdb/mnist).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

Point: TypeAlias = tuple[float, float]
Stroke: TypeAlias = Sequence[Point]
"""Points of one touch, x to the right and y upward; only proportions count."""

SIDE: Final = 28
_BOX: Final = 20.0
_PEN: Final = 0.9
"""Half the pen's width in pixels, and how far its soft edge reaches beyond."""
_EDGE: Final = 1.0
_MAX_SEGMENTS: Final = 512
_GRID: Final = np.stack(np.meshgrid(np.arange(SIDE), np.arange(SIDE)), axis=-1).reshape(-1, 2) + 0.5


def rasterize(strokes: Sequence[Stroke]) -> NDArray[np.float32]:
    """Return the image of a drawing.

    Parameters
    ----------
    strokes : sequence of sequence of (float, float)
        At least one point.

    Returns
    -------
    ndarray of float32, shape (1, 28, 28)
        0 is paper, 1 is ink; row 0 is the top.

    Raises
    ------
    ValueError
        If nothing was drawn.
    """
    segments = _segments(strokes)
    if len(segments) == 0:
        raise ValueError("nothing was drawn")
    low, high = segments.min(axis=(0, 1)), segments.max(axis=(0, 1))
    scale = _BOX / max(float((high - low).max()), 1e-3)
    # A dot or a very short line is not blown up to a page of ink.
    scale = min(scale, _BOX / 0.05)
    centred = (segments - (low + high) / 2) * scale
    centred[..., 1] *= -1.0
    image = _ink(centred + SIDE / 2)
    offset = SIDE / 2 - (image[:, None] * _GRID).sum(axis=0) / image.sum()
    return _ink(centred + SIDE / 2 + offset).astype(np.float32).reshape(1, SIDE, SIDE)


def _segments(strokes: Sequence[Stroke]) -> NDArray[np.float64]:
    """Return lines between neighbours, shape (n, 2, 2); a lone point is a line to itself."""
    lines = []
    for stroke in strokes:
        points = np.asarray(stroke, dtype=np.float64).reshape(-1, 2)
        if len(points) == 1:
            points = np.repeat(points, 2, axis=0)
        if len(points):
            lines.append(np.stack([points[:-1], points[1:]], axis=1))
    if not lines:
        return np.empty((0, 2, 2))
    joined = np.concatenate(lines)
    step = -(-len(joined) // _MAX_SEGMENTS)
    return joined[::step] if step > 1 else joined


def _ink(segments: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return how dark each pixel is, shape (784,), for lines in pixels."""
    start, along = segments[:, 0], segments[:, 1] - segments[:, 0]
    length = np.maximum((along**2).sum(axis=1), 1e-12)
    reach = ((_GRID[:, None] - start) * along).sum(axis=2) / length
    nearest = start + np.clip(reach, 0, 1)[..., None] * along
    distance = np.sqrt(((_GRID[:, None] - nearest) ** 2).sum(axis=2).min(axis=1))
    ink: NDArray[np.float64] = np.clip(1 - (distance - _PEN) / _EDGE, 0, 1)
    return ink
