"""The app: makes the view models, shows the screens, and follows the system's pauses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from kivy.app import App
from kivy.clock import Clock
from kivy.properties import NumericProperty, ObjectProperty

from pocketfl_app.home import Home
from pocketfl_app.screens.screens import Shell, WelcomeCard, load_theme
from pocketfl_app.strings import tr
from pocketfl_app.view_models.benchmark import BenchmarkModel
from pocketfl_app.view_models.budget import BudgetModel
from pocketfl_app.view_models.context import AppContext
from pocketfl_app.view_models.device import DeviceModel
from pocketfl_app.view_models.draw import DrawModel
from pocketfl_app.view_models.privacy import PrivacyModel
from pocketfl_app.view_models.settings import SettingsModel
from pocketfl_app.view_models.train import TrainModel
from pocketfl_app.worker.link import DesktopWorker, Launched

STATUS_SECONDS: Final = 5.0
"""How often the state of the device is looked at while a screen shows it."""
_SHOWS_STATUS: Final = frozenset({"train", "budget", "privacy"})


class PocketFLApp(App):
    """One window.

    Parameters
    ----------
    home : Home
        The install; by default in the platform's folder for this app.
    launch : callable
        Starts the worker; a service on Android.
    leave : callable, optional
        Called when the person leaves the app and has chosen to take part without being asked: on
        Android it goes on with rounds that are due.
    """

    text_scale = NumericProperty(1.0)
    draw = ObjectProperty(None, rebind=True)
    train = ObjectProperty(None, rebind=True)
    device = ObjectProperty(None, rebind=True)
    budget = ObjectProperty(None, rebind=True)
    privacy = ObjectProperty(None, rebind=True)
    benchmark = ObjectProperty(None, rebind=True)
    options = ObjectProperty(None, rebind=True)

    def __init__(
        self,
        home: Home,
        *,
        launch: Callable[[str], Launched] = DesktopWorker,
        leave: Callable[[Home], None] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.title = tr("app.title")
        self.home = home
        self._launch = launch
        self._leave = leave
        self.context: AppContext
        self._ticks: Any = None

    def build(self) -> Shell:
        """Make everything; files are opened and the model is loaded off the UI thread."""
        load_theme()
        context = self.context = AppContext(self.home, launch=self._launch)
        self.text_scale = context.settings.text_scale
        context.bind(settings=lambda _, settings: setattr(self, "text_scale", settings.text_scale))
        self.draw = DrawModel(context)
        self.train = TrainModel(context)
        self.device = DeviceModel(context)
        self.budget = BudgetModel(context)
        self.privacy = PrivacyModel(context)
        self.benchmark = BenchmarkModel(context)
        self.options = SettingsModel(context)
        shell = Shell()
        for name in ("draw", "budget", "privacy", "benchmark"):
            shell.screens[name].connect(getattr(self, name))
        shell.screens["train"].connect(self.device)
        shell.ids.screens.bind(current=lambda *_: context.refresh())
        if not self.options.welcomed:
            card = WelcomeCard()
            card.bind(on_dismiss=lambda _: self._welcomed(shell, card))
            shell.add_widget(card)
        return shell

    def _welcomed(self, shell: Shell, card: WelcomeCard) -> None:
        shell.remove_widget(card)
        self.options.welcome()

    def on_start(self) -> None:
        """Begin to look at the device now and then."""
        self._ticks = Clock.schedule_interval(self._tick, STATUS_SECONDS)
        self.root_window.bind(on_drop_file=self._dropped)

    def _dropped(self, _: object, path: bytes, *place: object) -> None:
        self.options.drop(path.decode("utf-8", "surrogateescape"))

    def _tick(self, _: float) -> None:
        if self.root.current in _SHOWS_STATUS and self.context.idle:
            self.context.refresh()

    def on_pause(self) -> bool:
        """Stay: the drawing is kept, and what the worker does goes on in its own process."""
        if self._ticks is not None:
            self._ticks.cancel()
        if self._leave is not None and self.context.settings.automatic:
            self._leave(self.home)
        return True

    def on_resume(self) -> None:
        """Look at the device anew: battery and network have changed meanwhile."""
        if self._ticks is not None:
            self._ticks()
        self.context.refresh()

    def on_stop(self) -> None:
        """End the worker and close the files."""
        self.root_window.unbind(on_drop_file=self._dropped)
        self.context.close()
