"""The Draw screen: strokes, the guess while they are drawn, and what the person says it is."""

from __future__ import annotations

from typing import Any, Final

from kivy.event import EventDispatcher
from kivy.properties import BooleanProperty, ListProperty, NumericProperty, StringProperty

from pocketfl_app.device.drawings import DIGITS, HELD_OUT, Saved
from pocketfl_app.drawing import rasterize
from pocketfl_app.strings import tr
from pocketfl_app.view_models.context import AppContext

SURE: Final = 0.6
"""Below this probability the guess is put as a question."""


class DrawModel(EventDispatcher):
    """One drawing at a time."""

    chances = ListProperty([0.0] * DIGITS)
    counts = ListProperty([0] * DIGITS)
    best = NumericProperty(-1)
    """The guess; -1 while nothing is drawn."""
    headline = StringProperty("")
    message = StringProperty("")
    kept = StringProperty("")
    confirm_text = StringProperty("")
    has_ink = BooleanProperty(False)
    can_undo = BooleanProperty(False)

    __events__ = ("on_wipe",)

    def __init__(self, context: AppContext, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._context = context
        self._strokes: list[list[tuple[float, float]]] = []
        self._saved: Saved | None = None
        self._looking = self._outdated = False
        context.bind(
            on_model=lambda *_: self._look(), drawn=lambda *_: self._count(), notice=self._complain
        )
        self._describe()

    # What the person does.

    def set_strokes(self, strokes: list[list[tuple[float, float]]]) -> None:
        """Take over the drawing as it is now; called with every movement of the finger."""
        self._strokes = strokes
        self.has_ink = bool(strokes)
        self.can_undo = self.has_ink or self._saved is not None
        if self.has_ink:
            self.message = ""
        self._look()

    def confirm(self) -> None:
        """Say that the guess is right."""
        if self.best >= 0:
            self.label(int(self.best))

    def label(self, digit: int) -> None:
        """Say what was drawn: it is kept, and the page is clear for the next one."""
        drawings = self._context.drawings
        if not self.has_ink or drawings is None:
            return
        strokes = [list(stroke) for stroke in self._strokes]
        self.clear()
        self._context.desk.run(lambda: drawings.add(rasterize(strokes), digit), self._kept)

    def undo(self) -> None:
        """Take back the last stroke, or else the drawing that was just kept."""
        if self._strokes:
            self.dispatch("on_wipe", False)
            return
        saved, drawings = self._saved, self._context.drawings
        if saved is not None and drawings is not None:
            self._saved = None
            self._context.desk.run(lambda: drawings.undo(saved), lambda _: self._undone())

    def clear(self) -> None:
        """Begin with an empty page."""
        self.dispatch("on_wipe", True)

    def on_wipe(self, everything: bool) -> None:
        """Hear that strokes are to go, the last or all; the page binds to this."""

    # What comes of it.

    def _kept(self, saved: Saved) -> None:
        self._saved = saved
        self.can_undo = True
        aside = saved.collection == HELD_OUT
        self.message = tr("draw.saved_aside" if aside else "draw.saved", digit=saved.digit)
        self._context.drawn += 1

    def _undone(self) -> None:
        self.can_undo = self.has_ink
        self.message = tr("draw.undone")
        self._context.drawn += 1

    def _complain(self, _: AppContext, text: str) -> None:
        self.message = text

    def _count(self) -> None:
        drawings = self._context.drawings
        if drawings is None:
            return
        self.counts = list(drawings.counts())
        total = sum(self.counts)
        self.kept = (
            tr("draw.kept", count=total, aside=drawings.held_out) if total else tr("draw.kept_none")
        )

    def _look(self) -> None:
        """Have the model look, unless it is at it: then it looks again at what is there by then."""
        if not self._strokes:
            self.chances, self.best = [0.0] * DIGITS, -1
            self._describe()
        elif self._looking:
            self._outdated = True
        elif self._context.model_ready:
            self._looking, self._outdated = True, False
            self._context.predict(rasterize(self._strokes), self._guessed)

    def _guessed(self, chances: Any) -> None:
        self._looking = False
        if chances is not None and self._strokes:
            self.chances = [float(chance) for chance in chances]
            self.best = int(chances.argmax())
        self._describe()
        if self._outdated:
            self._look()

    def _describe(self) -> None:
        if self.best < 0:
            ready = self._context.model_ready
            self.headline = tr("draw.ready" if ready else "draw.loading")
            self.confirm_text = tr("draw.yes_empty")
            return
        chance = self.chances[int(self.best)]
        self.headline = tr(
            "draw.guess" if chance >= SURE else "draw.unsure",
            digit=int(self.best),
            percent=f"{100 * chance:.0f}",
        )
        self.confirm_text = tr("draw.yes", digit=int(self.best))
