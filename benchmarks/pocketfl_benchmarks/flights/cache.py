"""Where the demo keeps what it need not make twice."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Final

CACHE_VARIABLE: Final = "POCKETFL_CACHE"
"""Environment variable that moves the cache."""


def cache_directory(chosen: Path | None = None) -> Path:
    """Return the cache directory of this user, made when it does not exist.

    Parameters
    ----------
    chosen : Path, optional
        What the command line says; it goes before :data:`CACHE_VARIABLE`, which goes before the
        platform's own place (XDG base directories on Linux, Library/Caches on macOS, LOCALAPPDATA on
        Windows).

    Returns
    -------
    Path
        An existing directory.
    """
    directory = chosen or _from_environment() or _of_platform()
    directory.mkdir(parents=True, exist_ok=True)
    return directory


def _from_environment() -> Path | None:
    value = os.environ.get(CACHE_VARIABLE)
    return Path(value) if value else None


def _of_platform() -> Path:
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "pocketfl"
    if sys.platform == "win32":
        local = os.environ.get("LOCALAPPDATA")
        return (Path(local) if local else Path.home() / "AppData" / "Local") / "pocketfl" / "Cache"
    xdg = os.environ.get("XDG_CACHE_HOME")
    # The XDG specification says to ignore a relative path.
    base = Path(xdg) if xdg and Path(xdg).is_absolute() else Path.home() / ".cache"
    return base / "pocketfl"
