"""Where this install keeps its things, and what it was started with; the worker gets the same."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pocketfl_app.bundle import ASSETS


@dataclass(frozen=True, kw_only=True)
class Home:
    """Folders of one install.

    Attributes
    ----------
    data : Path
        Private files: the store, its key, the settings.
    assets : Path
        What the app was built with.
    demo : bool
        Started by ``pocketfl demo --app``; see :meth:`Settings.budgets`.
    """

    data: Path
    assets: Path = ASSETS
    demo: bool = False

    @property
    def store(self) -> Path:
        """The device's file."""
        return self.data / "app.db"
