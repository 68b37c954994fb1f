"""The page that a person draws on: strokes follow the finger, and may go again one by one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from kivy.graphics import Color, SmoothEllipse, SmoothLine
from kivy.input import MotionEvent
from kivy.metrics import dp
from kivy.properties import ColorProperty
from kivy.uix.widget import Widget

Point = tuple[float, float]
NEAREST: Final = 0.004
"""Points closer than this part of the page to the one before add nothing."""


class Page(Widget):
    """Strokes in parts of the page, x to the right and y upward, so that turning the phone keeps them.

    Dispatches ``on_strokes`` with all strokes whenever they change.
    """

    ink = ColorProperty([0.11, 0.14, 0.2, 1])

    __events__ = ("on_strokes",)

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.strokes: list[list[Point]] = []
        self._lines: list[SmoothLine] = []
        self._ends: list[SmoothEllipse] = []
        self.bind(pos=self._redraw, size=self._redraw)

    def on_strokes(self, strokes: list[list[Point]]) -> None:
        """Hear that the drawing changed."""

    def wipe(self, everything: bool) -> None:
        """Take the last stroke away, or all."""
        self.strokes = [] if everything else self.strokes[:-1]
        self._redraw()
        self.dispatch("on_strokes", self.strokes)

    def on_touch_down(self, touch: MotionEvent) -> bool:
        """Begin a stroke."""
        if not self.collide_point(*touch.pos) or (
            "button" in touch.profile and touch.button != "left"
        ):
            return bool(super().on_touch_down(touch))
        touch.grab(self)
        touch.ud["stroke"] = [self._place(touch)]
        self.strokes = [*self.strokes, touch.ud["stroke"]]
        self._redraw()
        self.dispatch("on_strokes", self.strokes)
        return True

    def on_touch_move(self, touch: MotionEvent) -> bool:
        """Go on with it; a finger that leaves the page draws along its edge."""
        if touch.grab_current is not self:
            return bool(super().on_touch_move(touch))
        stroke, place = touch.ud["stroke"], self._place(touch)
        last = stroke[-1]
        if abs(place[0] - last[0]) + abs(place[1] - last[1]) >= NEAREST:
            stroke.append(place)
            self._extend(stroke)
            self.dispatch("on_strokes", self.strokes)
        return True

    def on_touch_up(self, touch: MotionEvent) -> bool:
        """End it."""
        if touch.grab_current is not self:
            return bool(super().on_touch_up(touch))
        touch.ungrab(self)
        return True

    def _place(self, touch: MotionEvent) -> Point:
        x = (touch.x - self.x) / max(1.0, self.width)
        y = (touch.y - self.y) / max(1.0, self.height)
        return min(1.0, max(0.0, x)), min(1.0, max(0.0, y))

    def _pixels(self, stroke: list[Point]) -> list[float]:
        points = [
            value
            for x, y in stroke
            for value in (self.x + x * self.width, self.y + y * self.height)
        ]
        # A dot is a very short line.
        return points if len(stroke) > 1 else [*points, points[0] + 1, points[1]]

    def _extend(self, stroke: list[Point]) -> None:
        for drawn, line, end in zip(self.strokes, self._lines, self._ends, strict=True):
            if drawn is stroke:
                line.points = self._pixels(stroke)
                end.pos = self._corner(line.points[-2:])

    @property
    def _pen(self) -> float:
        return float(max(dp(10), min(self.width, self.height) / 26))

    def _corner(self, point: Sequence[float]) -> tuple[float, float]:
        return point[0] - self._pen / 2, point[1] - self._pen / 2

    def _redraw(self, *_: object) -> None:
        self.canvas.clear()
        self._lines, self._ends = [], []
        pen = self._pen
        with self.canvas:
            Color(rgba=self.ink)
            for stroke in self.strokes:
                points = self._pixels(stroke)
                # A smooth line has no round ends.
                SmoothEllipse(pos=self._corner(points[:2]), size=(pen, pen))
                self._lines.append(SmoothLine(points=points, width=pen / 2, joint="round"))
                end = SmoothEllipse(pos=self._corner(points[-2:]), size=(pen, pen))
                self._ends.append(end)
