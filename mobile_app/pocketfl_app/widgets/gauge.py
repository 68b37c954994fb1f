"""A ring that fills as a budget is used up; the figures beside it say the same in words."""

from __future__ import annotations

from typing import Any

from kivy.graphics import Color, SmoothLine
from kivy.metrics import dp
from kivy.properties import ColorProperty, NumericProperty
from kivy.uix.label import Label


class Ring(Label):
    """``share`` from 0 to 1, written in its middle."""

    share = NumericProperty(0.0)
    track = ColorProperty([0.9, 0.89, 0.86, 1])
    fill = ColorProperty([0.23, 0.3, 0.79, 1])

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.bind(pos=self._draw, size=self._draw, share=self._draw, fill=self._draw)
        self._draw()

    def _draw(self, *_: object) -> None:
        # Less than a whole percent is still something.
        self.text = f"{100 * self.share:.0f}%" if self.share >= 0.005 else "0%"
        if 0 < self.share < 0.005:
            self.text = "<1%"
        self.canvas.before.clear()
        width = dp(4)
        # Not center_x: an alias may still have its old value while a change is told of.
        middle = (self.x + self.width / 2, self.y + self.height / 2)
        radius = max(1.0, min(self.width, self.height) / 2 - 2 * width)
        with self.canvas.before:
            Color(rgba=self.track)
            SmoothLine(circle=(*middle, radius), width=width)
            if self.share > 0:
                Color(rgba=self.fill)
                angle = 360 * max(0.01, self.share)
                SmoothLine(
                    circle=(*middle, radius, 0, angle),
                    width=width,
                    cap="round",
                )
