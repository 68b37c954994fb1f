"""What all view models share: the store, the settings, the worker, and the state of the device."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from kivy.event import EventDispatcher
from kivy.properties import BooleanProperty, NumericProperty, ObjectProperty, StringProperty

from pocketfl.store import ExampleStore
from pocketfl_app.bundle import Bundle, load_bundle
from pocketfl_app.device.connection import trusted_keys
from pocketfl_app.device.drawings import Drawings
from pocketfl_app.device.predictor import Predictor
from pocketfl_app.device.status import Status, read_status
from pocketfl_app.home import Home
from pocketfl_app.settings import Settings, load_settings, save_settings
from pocketfl_app.view_models.desk import Desk, on_ui_thread
from pocketfl_app.worker.link import DesktopWorker, Launched, WorkerLink
from pocketfl_app.worker.messages import Control, Event, Start


class AppContext(EventDispatcher):
    """The app without its screens.

    Parameters
    ----------
    home : Home
        The install.
    launch : callable
        Starts the worker.
    """

    settings = ObjectProperty(Settings())
    status = ObjectProperty(None, allownone=True)
    drawn = NumericProperty(0)
    """Counts changes of the drawings."""
    model_ready = BooleanProperty(False)
    notice = StringProperty("")
    """The last thing that went wrong, for people."""

    __events__ = ("on_worker", "on_model")

    def __init__(
        self, home: Home, *, launch: Callable[[str], Launched] = DesktopWorker, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.home = home
        home.data.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.settings = load_settings(home.data)
        self.bundle: Bundle = load_bundle(home.assets)
        self.desk = Desk("desk", failed=self._note)
        self._oracle = Desk("predictions", failed=self._note)
        self.link = WorkerLink(home, self._from_worker, launch=launch)
        self.store: ExampleStore | None = None
        self.drawings: Drawings | None = None
        self._predictor: Predictor | None = None
        self.desk.run(self._open_store, lambda _: self._opened())

    @property
    def idle(self) -> bool:
        """Whether nothing is under way off the UI thread, the worker's job apart."""
        return self.desk.idle and self._oracle.idle

    def _open_store(self) -> None:
        self.store = ExampleStore(self.home.store)
        self.drawings = Drawings(self.store)

    def _opened(self) -> None:
        self.drawn += 1
        self.reload_model()
        self.refresh()
        # The worker starts once the first prediction can be made: one after the other is quicker.
        self._oracle.run(lambda: None, lambda _: self._warm_up())

    def _warm_up(self) -> None:
        self.desk.run(self.link.warm_up)

    # The model in use.

    def reload_model(self) -> None:
        """Open the model in use anew, for it or the runtime has changed."""
        self._oracle.run(self._open_model, lambda _: self._model_opened())

    def _open_model(self) -> None:
        if self.store is None:
            return
        keys = trusted_keys(self.settings, self.bundle.trust)
        fresh = Predictor(self.store, self.bundle, runtime=self.settings.runtime, keys=keys)
        before, self._predictor = self._predictor, fresh
        if before is not None:
            before.close()

    def _model_opened(self) -> None:
        self.model_ready = True
        self.dispatch("on_model")

    def predict(self, image: Any, then: Callable[[Any], object]) -> None:
        """Have the model in use look at an image."""
        self._oracle.run(lambda: self._predictor.predict(image) if self._predictor else None, then)

    # Settings and state.

    def change(self, **changes: Any) -> None:
        """Take over and keep choices."""
        before, self.settings = self.settings, replace(self.settings, **changes)
        settings = self.settings
        self.desk.run(lambda: save_settings(self.home.data, settings))
        if settings.runtime != before.runtime:
            self.reload_model()
        self.refresh()

    def refresh(self) -> None:
        """Look at the device anew."""
        self.desk.run(self._read_status, self._set_status)

    def _read_status(self) -> Status | None:
        if self.store is None:
            return None
        return read_status(self.store, self.settings, self.bundle, self.home)

    def _set_status(self, status: Status | None) -> None:
        if status is not None:
            self.status = status

    # The worker.

    def start(self, job: Start) -> None:
        """Have the worker begin a job."""
        self.desk.run(lambda: self.link.start(job))

    def control(self, action: str) -> None:
        """Hold, continue or end the worker's job; at once."""
        self.link.control(Control(action=action))  # type: ignore[arg-type]

    def _from_worker(self, event: Event) -> None:
        on_ui_thread(lambda: self.dispatch("on_worker", event))

    def on_worker(self, event: Event) -> None:
        """Hear a word of the worker; view models bind to this."""

    def on_model(self) -> None:
        """Hear that another model predicts now; view models bind to this."""

    def _note(self, error: Exception) -> None:
        self.notice = str(error)

    def close(self) -> None:
        """End the worker and close the files."""
        self.link.close()
        self._oracle.close()
        self.desk.close()
        if self._predictor is not None:
            self._predictor.close()
        if self.store is not None:
            self.store.close()
