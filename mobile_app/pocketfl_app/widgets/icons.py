"""Icons as lines on a square of 24 by 24, so that they are sharp at every size and need no font."""

from __future__ import annotations

from typing import Any, Final

from kivy.graphics import Color, SmoothLine
from kivy.metrics import dp
from kivy.properties import ColorProperty, StringProperty
from kivy.uix.widget import Widget

Path = list[float]

_LINES: Final[dict[str, list[Path]]] = {
    "draw": [[4, 4, 5, 9, 16, 20, 20, 16, 9, 5, 4, 4], [13.5, 17.5, 17.5, 13.5]],
    "train": [[3, 5, 8, 13, 12, 9, 20, 19], [14, 19, 20, 19, 20, 13]],
    "budget": [[12, 8, 16.5, 14]],
    "privacy": [
        [12, 21, 19.5, 18, 19.5, 12, 17, 7, 12, 3, 7, 7, 4.5, 12, 4.5, 18, 12, 21],
        [8.5, 12, 11, 9.5, 15.5, 14.5],
    ],
    "benchmark": [[12, 10, 12, 15], [10, 22, 14, 22], [18, 18, 19.5, 19.5]],
    "settings": [
        [3, 18, 10, 18],
        [14, 18, 21, 18],
        [3, 12, 15, 12],
        [19, 12, 21, 12],
        [3, 6, 6, 6],
        [10, 6, 21, 6],
    ],
    "check": [[5, 12, 10, 7, 19, 17]],
    "wait": [[8, 6, 8, 18], [16, 6, 16, 18]],
}
_CIRCLES: Final[dict[str, list[tuple[float, float, float, float, float]]]] = {
    # Centre, radius, and from which to which angle, clockwise from the top.
    "budget": [(12, 8, 9, -100, 100)],
    "benchmark": [(12, 10, 8, 0, 360)],
    "settings": [(12, 18, 2, 0, 360), (17, 12, 2, 0, 360), (8, 6, 2, 0, 360)],
}


class Icon(Widget):
    """One of the icons, in one colour."""

    name = StringProperty("draw")
    color = ColorProperty([0, 0, 0, 1])

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.bind(pos=self._draw, size=self._draw, name=self._draw, color=self._draw)

    def _draw(self, *_: object) -> None:
        self.canvas.clear()
        side = min(self.width, self.height)
        scale = side / 24
        # Not center_x: an alias may still have its old value while a change is told of.
        left, bottom = self.x + (self.width - side) / 2, self.y + (self.height - side) / 2
        width = max(dp(0.8), 0.9 * scale)
        with self.canvas:
            Color(rgba=self.color)
            for path in _LINES.get(self.name, []):
                points = [
                    (left if i % 2 == 0 else bottom) + scale * value for i, value in enumerate(path)
                ]
                SmoothLine(points=points, width=width, cap="round", joint="round")
            for x, y, radius, start, end in _CIRCLES.get(self.name, []):
                circle = (left + scale * x, bottom + scale * y, scale * radius, start, end)
                SmoothLine(circle=circle, width=width, cap="round")
