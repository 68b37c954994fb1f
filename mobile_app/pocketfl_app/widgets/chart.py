"""A line chart of losses; drawn anew only when it changed, and with no more points than pixels."""

from __future__ import annotations

from typing import Any, Final

from kivy.clock import Clock
from kivy.graphics import Color, Line, Mesh
from kivy.metrics import dp
from kivy.properties import ColorProperty, ListProperty
from kivy.uix.widget import Widget

MOST_POINTS: Final = 240


class LossChart(Widget):
    """``values`` from left to right; the vertical axis begins at 0, so that half is half."""

    values = ListProperty([])
    color = ColorProperty([0.23, 0.3, 0.79, 1])
    fill = ColorProperty([0.23, 0.3, 0.79, 0.12])
    grid = ColorProperty([0.87, 0.85, 0.81, 1])

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._draw_soon = Clock.create_trigger(self._draw)
        self.bind(pos=self._draw_soon, size=self._draw_soon, values=self._draw_soon)

    def _draw(self, *_: object) -> None:
        self.canvas.clear()
        with self.canvas:
            Color(rgba=self.grid)
            for quarter in range(5):
                y = self.y + self.height * quarter / 4
                Line(points=[self.x, y, self.right, y], width=1)
            values = self.smoothed()
            if len(values) < 2:
                return
            top = max(*values, 1e-6) * 1.1
            points = [
                (self.x + self.width * i / (len(values) - 1), self.y + self.height * value / top)
                for i, value in enumerate(values)
            ]
            Color(rgba=self.fill)
            vertices = [v for x, y in points for v in (x, self.y, 0, 0, x, y, 0, 0)]
            Mesh(vertices=vertices, indices=list(range(2 * len(points))), mode="triangle_strip")
            Color(rgba=self.color)
            flat = [coordinate for point in points for coordinate in point]
            Line(points=flat, width=dp(1.4), joint="round", cap="round")

    def smoothed(self) -> list[float]:
        """Return means of neighbours where there are more values than can be seen."""
        size = max(1, -(-len(self.values) // MOST_POINTS))
        return [
            sum(self.values[i : i + size]) / len(self.values[i : i + size])
            for i in range(0, len(self.values), size)
        ]
