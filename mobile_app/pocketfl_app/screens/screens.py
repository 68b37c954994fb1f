"""The six screens and the frame around them; what they look like is in the ``.kv`` files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from kivy.factory import Factory
from kivy.lang import Builder
from kivy.properties import BooleanProperty, NumericProperty, StringProperty
from kivy.uix.anchorlayout import AnchorLayout
from kivy.uix.behaviors import ButtonBehavior
from kivy.uix.boxlayout import BoxLayout
from kivy.uix.floatlayout import FloatLayout
from kivy.uix.screenmanager import NoTransition, Screen

from pocketfl_app.device.drawings import DIGITS
from pocketfl_app.view_models.benchmark import BenchmarkModel
from pocketfl_app.view_models.budget import BudgetModel
from pocketfl_app.view_models.device import DeviceModel
from pocketfl_app.view_models.draw import DrawModel
from pocketfl_app.view_models.privacy import PrivacyModel
from pocketfl_app.widgets.chart import LossChart
from pocketfl_app.widgets.controls import Bar, BaseButton, Choice, Pill, Stepper, Toggle
from pocketfl_app.widgets.gauge import Ring
from pocketfl_app.widgets.icons import Icon
from pocketfl_app.widgets.page import Page

NAMES: Final = ("draw", "train", "budget", "privacy", "benchmark", "settings")
_FOLDER: Final = Path(__file__).parent
WIDER: Final = 1.15
"""A window this much wider than high has its bar at the side."""


class DigitColumn(ButtonBehavior, BoxLayout):
    """The probability of a digit, how many of it there are, and the button that says "it was this"."""

    digit = NumericProperty(0)
    chance = NumericProperty(0.0)
    count = NumericProperty(0)
    best = BooleanProperty(False)


class StateRow(BoxLayout):
    """One thing about the device."""

    name = StringProperty("")
    value = StringProperty("")
    word = StringProperty("")
    fine = BooleanProperty(True)


class GaugeCard(BoxLayout):
    """One budget."""

    name = StringProperty("")
    value = StringProperty("")
    limit = StringProperty("")
    share = NumericProperty(0.0)
    full = BooleanProperty(False)


class FigureRow(BoxLayout):
    """One figure of the benchmark."""

    name = StringProperty("")
    value = StringProperty("")


class ReceiptCard(BoxLayout):
    """One contribution."""

    title = StringProperty("")
    outcome = StringProperty("")
    good = BooleanProperty(True)
    lines = StringProperty("")


class NavButton(ButtonBehavior, BoxLayout):
    """The way to a screen."""

    screen = StringProperty("draw")
    chosen = BooleanProperty(False)


class WelcomeCard(AnchorLayout):
    """Three sentences at the first start; takes every touch until it was read."""

    __events__ = ("on_dismiss",)

    def on_touch_down(self, touch: Any) -> bool:
        """Keep touches from what lies beneath."""
        super().on_touch_down(touch)
        return True

    def dismiss(self) -> None:
        """Go away."""
        self.dispatch("on_dismiss")

    def on_dismiss(self) -> None:
        """Hear that it was read."""


class DrawScreen(Screen):
    """Draw, see the guess, say what it is."""

    landscape = BooleanProperty(False)

    def connect(self, draw: DrawModel) -> None:
        """Show a model."""
        columns = [DigitColumn(digit=digit) for digit in range(DIGITS)]
        for column in columns:
            column.bind(on_release=lambda pressed: draw.label(int(pressed.digit)))
            self.ids.columns.add_widget(column)

        def show(*_: object) -> None:
            for column in columns:
                column.chance = draw.chances[column.digit]
                column.count = draw.counts[column.digit]
                column.best = column.digit == draw.best

        draw.bind(chances=show, counts=show, best=show)
        draw.bind(on_wipe=lambda _, everything: self.ids.page.wipe(everything))
        show()


class TrainScreen(Screen):
    """Training, rounds, the gate, and the device's state."""

    def connect(self, device: DeviceModel) -> None:
        """Show a model."""
        _keep_rows(self.ids.rows, device, "rows", StateRow)


class BudgetScreen(Screen):
    """Gauges."""

    def connect(self, budget: BudgetModel) -> None:
        """Show a model."""
        _keep_rows(self.ids.gauges, budget, "gauges", GaugeCard)


class PrivacyScreen(Screen):
    """Receipts, erasing, opting out."""

    def connect(self, privacy: PrivacyModel) -> None:
        """Show a model."""
        _keep_rows(self.ids.receipts, privacy, "receipts", ReceiptCard)


class BenchmarkScreen(Screen):
    """Figures of this device."""

    def connect(self, benchmark: BenchmarkModel) -> None:
        """Show a model."""
        _keep_rows(self.ids.rows, benchmark, "rows", FigureRow)


class SettingsScreen(Screen):
    """Server, limits, runtime, size of text."""


class Shell(FloatLayout):
    """The screens with the bar that leads to them: below, or at the side of a window that lies."""

    landscape = BooleanProperty(False)

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.screens: dict[str, Screen] = {
            "draw": DrawScreen(name="draw"),
            "train": TrainScreen(name="train"),
            "budget": BudgetScreen(name="budget"),
            "privacy": PrivacyScreen(name="privacy"),
            "benchmark": BenchmarkScreen(name="benchmark"),
        }
        self.buttons: dict[str, NavButton] = {}
        self.ids.screens.transition = NoTransition()
        for screen in self.screens.values():
            self.ids.screens.add_widget(screen)
        for name in NAMES:
            button = NavButton(screen=name)
            button.bind(on_release=lambda pressed: self.show(pressed.screen))
            self.ids.bar.add_widget(button)
            self.buttons[name] = button
        self.bind(size=self._turn)
        self.show("draw")

    def show(self, name: str) -> None:
        """Go to a screen."""
        if name not in self.screens:
            # Text input brings the clipboard, and that a search for programs: not at every start.
            Builder.load_file(str(_FOLDER / f"{name}.kv"))
            self.screens[name] = SettingsScreen(name=name)
            self.ids.screens.add_widget(self.screens[name])
        self.ids.screens.current = name
        for button in self.buttons.values():
            button.chosen = button.screen == name

    @property
    def current(self) -> str:
        """The screen that is shown."""
        return str(self.ids.screens.current)

    def _turn(self, *_: object) -> None:
        self.landscape = self.width > self.height * WIDER
        self.screens["draw"].landscape = self.landscape


def load_theme() -> None:
    """Read the ``.kv`` files, once."""
    for widget in (Bar, BaseButton, Choice, Icon, LossChart, Page, Pill, Ring, Stepper, Toggle):
        Factory.register(widget.__name__, cls=widget)
    for name in ("theme", *NAMES[:-1]):
        path = str(_FOLDER / f"{name}.kv")
        if path not in Builder.files:
            Builder.load_file(path)


def _keep_rows(box: Any, model: Any, name: str, make: Callable[..., Any]) -> None:
    """Have a box hold one widget per entry of a list property; widgets that fit are kept."""

    def show(*_: object) -> None:
        entries: list[dict[str, Any]] = getattr(model, name)
        # Widgets of a box are listed from the last to the first.
        rows = box.children[::-1]
        for row in rows[len(entries) :]:
            box.remove_widget(row)
        for row, entry in zip(rows, entries, strict=False):
            for key, value in entry.items():
                setattr(row, key, value)
        for entry in entries[len(rows) :]:
            box.add_widget(make(**entry))

    model.bind(**{name: show})
    show()
