"""Buttons and what stands in rows of settings; what they look like is in ``theme.kv``."""

from __future__ import annotations

from kivy.properties import BooleanProperty, ColorProperty, NumericProperty, StringProperty
from kivy.uix.behaviors import ButtonBehavior
from kivy.uix.boxlayout import BoxLayout
from kivy.uix.label import Label
from kivy.uix.widget import Widget


class BaseButton(ButtonBehavior, Label):
    """A button in the theme's form; its colours are those of its kind."""

    ground = ColorProperty([0, 0, 0, 1])
    ground_down = ColorProperty([0, 0, 0, 1])
    edge = ColorProperty([0, 0, 0, 1])


class Choice(ButtonBehavior, Label):
    """One of a few; the chosen one is filled, bold and has a mark."""

    chosen = BooleanProperty(False)
    caption = StringProperty("")


class Toggle(ButtonBehavior, BoxLayout):
    """A row to switch something; says "on" or "off" beside the knob."""

    on = BooleanProperty(False)
    caption = StringProperty("")


class Stepper(ButtonBehavior, BoxLayout):
    """A row that goes on to its next choice when it is tapped."""

    caption = StringProperty("")


class Bar(Widget):
    """How far something has come, 0 to 1."""

    share = NumericProperty(0.0)
    color = ColorProperty([0, 0, 0, 1])


class Pill(Label):
    """A word on a ground of its colour."""

    good = BooleanProperty(True)
