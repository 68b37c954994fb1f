"""The Settings screen: server, runtime, limits, size of text."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from kivy.event import EventDispatcher
from kivy.properties import BooleanProperty, NumericProperty, StringProperty

from pocketfl_app.enrolment import SCHEME, EnrolmentTextError, parse_enrolment
from pocketfl_app.pictures import read_picture
from pocketfl_app.settings import TEXT_SCALES, Settings
from pocketfl_app.strings import tr
from pocketfl_app.view_models.context import AppContext
from pocketfl_app.view_models.formats import plain

BATTERY_LEVELS: Final = (0.2, 0.3, 0.5, 0.8)
DAILY_ROUNDS: Final = (1, 4, 12, 24)
YEARLY_EPSILONS: Final = (5.0, 10.0, 20.0, 50.0)


class SettingsModel(EventDispatcher):
    """Choices as the screen shows them."""

    server_text = StringProperty("")
    joined = BooleanProperty(False)
    error = StringProperty("")
    runtime = StringProperty("")
    only_charging = BooleanProperty(False)
    only_unmetered = BooleanProperty(True)
    automatic = BooleanProperty(False)
    min_battery = NumericProperty(0.3)
    contributions = NumericProperty(24)
    epsilon = NumericProperty(20.0)
    text_scale = NumericProperty(1.0)
    battery_text = StringProperty("")
    contributions_text = StringProperty("")
    epsilon_text = StringProperty("")
    welcomed = BooleanProperty(True)
    demo = BooleanProperty(False)

    def __init__(self, context: AppContext, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._context = context
        self.demo = context.home.demo
        context.bind(settings=lambda _, settings: self._show(settings))
        self._show(context.settings)

    def welcome(self) -> None:
        """Put the first-run card away."""
        self._context.change(welcomed=True)

    def join(self, text: str) -> bool:
        """Join the server of an invitation, or of a picture of one; say whether that worked.

        Parameters
        ----------
        text : str
            The invitation's text, or the name of a file with its QR code.
        """
        try:
            picture = _picture(text)
            site = parse_enrolment(text if picture is None else read_picture(picture))
        except EnrolmentTextError as error:
            self.error = str(error)
            return False
        self.error = ""
        self._context.change(site=site)
        return True

    def drop(self, path: str) -> None:
        """Take a file that was dropped on the window for the picture of an invitation."""
        if not self.joined:
            self.join(path)

    def leave(self) -> None:
        """Forget the server."""
        self._context.change(site=None, automatic=False)

    def choose_runtime(self, name: str) -> None:
        """Train and predict with another runtime, if it is installed."""
        if name != "onnxruntime" and find_spec(name) is None:
            self.error = tr("settings.runtime.missing", runtime=tr(f"settings.runtime.{name}"))
            return
        self.error = ""
        self._context.change(runtime=name)

    def change(self, **choices: Any) -> None:
        """Take over choices by their names in :class:`~pocketfl_app.settings.Settings`."""
        self._context.change(**choices)

    def next_of(self, name: str) -> None:
        """Go on to the next choice of a setting that has a few."""
        choices: tuple[float, ...] = {
            "min_battery": BATTERY_LEVELS,
            "contributions_per_day": DAILY_ROUNDS,
            "epsilon_per_year": YEARLY_EPSILONS,
            "text_scale": TEXT_SCALES,
        }[name]
        now = getattr(self._context.settings, name)
        higher = [choice for choice in choices if choice > now]
        self._context.change(**{name: higher[0] if higher else choices[0]})

    def _show(self, settings: Settings) -> None:
        site = settings.site
        self.joined = site is not None
        if site is None:
            self.server_text = tr("settings.server.none")
        else:
            lines = [
                tr("settings.server.joined", server=site.server),
                tr("settings.server.key", key=site.aggregator[:12]),
            ]
            if site.plan_key is not None:
                lines.append(tr("settings.server.modeller", key=site.plan_key[:12]))
            self.server_text = "\n".join(lines)
        self.runtime = settings.runtime
        self.only_charging = settings.only_charging
        self.only_unmetered = settings.only_unmetered
        self.automatic = settings.automatic
        self.min_battery = settings.min_battery
        self.contributions = settings.contributions_per_day
        self.epsilon = settings.epsilon_per_year
        self.text_scale = settings.text_scale
        self.welcomed = settings.welcomed
        self.battery_text = tr("settings.min_battery", percent=f"{100 * settings.min_battery:.0f}")
        self.contributions_text = tr("settings.contributions", count=settings.contributions_per_day)
        self.epsilon_text = tr("settings.epsilon", epsilon=plain(settings.epsilon_per_year))


def _picture(text: str) -> Path | None:
    """Return the file that a text names; None where it is an invitation itself, or nonsense."""
    name = text.strip()
    if name.startswith(f"{SCHEME}:") or not name.lower().endswith((".png", ".jpg", ".jpeg")):
        return None
    return Path(name).expanduser()
