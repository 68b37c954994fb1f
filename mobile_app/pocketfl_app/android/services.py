"""Starting and stopping the services, from the app's activity.

Android lets an app start a service of the foreground only while the app can be seen.
"""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING, Any, Final

from pocketfl.java import load_java, running_context
from pocketfl_app.home import Home
from pocketfl_app.strings import tr

if TYPE_CHECKING:
    from android.content import Context

log = logging.getLogger(__name__)

ROUNDS: Final = "rounds"
"""Key of the argument by which ``service.py`` knows that it is to run rounds."""


class AndroidWorker:
    """The worker as a service of the foreground; see :class:`~pocketfl_app.worker.link.DesktopWorker`.

    Parameters
    ----------
    argument : str
        Reaches the service's process through Android, which shows it to no other app.

    Raises
    ------
    OSError
        If Android does not start it, as when the app cannot be seen.
    """

    def __init__(self, argument: str) -> None:
        self._service = _Service("Worker")
        self._service.start(argument)

    def stop(self) -> None:
        """End it: its process is killed, and a round that was under way goes on another time."""
        self._service.stop()


def start_rounds(home: Home) -> None:
    """Run what is due in the background, with a notification, until nothing is.

    Where Android does not start it, the log says so, and rounds wait for the next time.
    """
    try:
        _Service("Rounds").start(json.dumps({ROUNDS: str(home.data), "assets": str(home.assets)}))
    except OSError:
        log.warning("rounds in the background did not start", exc_info=True)


def stop_rounds() -> None:
    """End it at once."""
    _Service("Rounds").stop()


class _Service:
    """A class that python-for-android made of an entry of ``services`` in buildozer.spec."""

    def __init__(self, name: str) -> None:
        java = load_java()
        context: Context | None = running_context(java.autoclass)
        if context is None:
            raise OSError("no activity of the app is running: start services from its screens")
        self._context = context
        self._exception = java.exception
        self._class: Any = java.autoclass(f"{context.getPackageName()}.Service{name}")

    def start(self, argument: str) -> None:
        try:
            self._class.start(self._context, "", tr("app.title"), tr("service.working"), argument)
        except self._exception as error:
            raise OSError(f"Android did not start the service: {error}") from error

    def stop(self) -> None:
        self._class.stop(self._context)
