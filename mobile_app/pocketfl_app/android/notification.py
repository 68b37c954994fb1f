"""The notification of the service that this process is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from pocketfl.java import load_java, running_context

if TYPE_CHECKING:
    from android.app import Notification, NotificationChannel, NotificationManager
    from android.content import Context

_CHANNEL: Final = "org.pocketfl.rounds"


class ServiceNotification:
    """Says in words what the service does; replaces the one that the bootstrap shows at its start.

    Parameters
    ----------
    service_id : int
        Place of the service in ``services`` of buildozer.spec, counted from 1: Android knows the
        notification by it.
    title, channel : str
        What a person reads above it, and in the system's settings of notifications.
    """

    def __init__(self, service_id: int, *, title: str, channel: str) -> None:
        java = load_java()
        self._id = service_id
        self._title = title
        context: Context | None = running_context(java.autoclass)
        if context is None:
            raise RuntimeError("no service is running: make this in the process of one")
        self._context = context
        self._builder: type[Notification.Builder] = java.autoclass(
            "android.app.Notification$Builder"
        )
        channels: type[NotificationChannel] = java.autoclass("android.app.NotificationChannel")
        kinds: type[NotificationManager] = java.autoclass("android.app.NotificationManager")
        self._manager: NotificationManager = java.cast(
            "android.app.NotificationManager", self._context.getSystemService("notification")
        )
        self._manager.createNotificationChannel(
            channels(_CHANNEL, _characters(channel), kinds.IMPORTANCE_LOW)
        )

    def show(self, text: str) -> None:
        """Replace the text."""
        builder = self._builder(self._context, _CHANNEL)
        builder.setContentTitle(_characters(self._title))
        builder.setContentText(_characters(text))
        builder.setSmallIcon(self._context.getApplicationInfo().icon)
        builder.setOngoing(True)
        builder.setOnlyAlertOnce(True)
        self._manager.notify(self._id, builder.build())


def _characters(text: str) -> Any:
    """Return a text where Java wants a ``CharSequence``: pyjnius makes one of it."""
    return text
