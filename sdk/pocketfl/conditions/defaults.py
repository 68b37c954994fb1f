"""Which provider of signals fits the platform that this process runs on."""

from __future__ import annotations

from pathlib import Path

from pocketfl.conditions.signals import SignalProvider, Signals
from pocketfl.java import on_android


class PlatformSignals:
    """The platform's own signals, whose libraries are loaded when they are first read.

    Parameters
    ----------
    path : str or Path
        As for :func:`default_signals`.
    """

    def __init__(self, path: str | Path) -> None:
        self._path = path
        self._provider: SignalProvider | None = None

    def read(self) -> Signals:
        """Look at the device now.

        Raises
        ------
        SignalsUnavailableError
            If the library that the platform needs is missing.
        """
        if self._provider is None:
            self._provider = default_signals(self._path)
        return self._provider.read()


def default_signals(path: str | Path) -> SignalProvider:
    """Return the provider for this platform.

    Parameters
    ----------
    path : str or Path
        The store, whose file system's free space counts; on Android it is the app's private files.

    Raises
    ------
    SignalsUnavailableError
        If the library that the platform needs is missing.
    """
    if on_android():
        from pocketfl.conditions.android import AndroidSignals

        return AndroidSignals()
    from pocketfl.conditions.desktop import DesktopSignals

    return DesktopSignals(path=path)
