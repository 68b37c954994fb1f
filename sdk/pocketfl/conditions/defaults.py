"""Which provider of signals fits the platform that this process runs on."""

from __future__ import annotations

import sys
from pathlib import Path

from pocketfl.conditions.signals import SignalProvider


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
    # Interpreters built for Android have this, whichever `sys.platform` they report.
    if hasattr(sys, "getandroidapilevel"):
        from pocketfl.conditions.android import AndroidSignals

        return AndroidSignals()
    from pocketfl.conditions.desktop import DesktopSignals

    return DesktopSignals(path=path)
