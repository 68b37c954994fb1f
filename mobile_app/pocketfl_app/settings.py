"""What a person chose; one small JSON file, written whole or not at all."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal

from pocketfl.budgets import DEFAULT_BUDGETS, Budgets, Limits
from pocketfl.conditions import ConditionSpec
from pocketfl.decoding import decode_json, encode_json
from pocketfl.errors import DecodeError
from pocketfl_app.enrolment import EnrolmentTextError, Site

FILE_NAME: Final = "settings.json"
_LIMIT: Final = 64 * 2**10
SEPARATION_SECONDS: Final = 6 * 3600.0
"""Least time between two contributions to one task."""
TEXT_SCALES: Final = (1.0, 1.15, 1.3, 1.5)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Choices, with what holds before any is made.

    Attributes
    ----------
    welcomed : bool
        Whether the first-run card was read.
    runtime : {"onnxruntime", "executorch"}
        What trains and predicts.
    text_scale : float
        On top of the system's own size of text.
    automatic : bool
        Take part in rounds without being asked, while the app is open.
    only_charging, only_unmetered : bool
        Tighter conditions than the plan's.
    min_battery : float
        Lowest battery level at which to take part, 0 to 1.
    contributions_per_day : int
        Most rounds in any 24 hours.
    epsilon_per_year : float
        Most privacy loss in any 365 days.
    site : Site or None
        The server; None while there is none.
    """

    welcomed: bool = False
    runtime: Literal["onnxruntime", "executorch"] = "onnxruntime"
    text_scale: float = 1.0
    automatic: bool = False
    only_charging: bool = False
    only_unmetered: bool = True
    min_battery: float = 0.3
    contributions_per_day: int = 24
    epsilon_per_year: float = 20.0
    site: Site | None = None

    def conditions(self) -> ConditionSpec:
        """Return the conditions that these choices add to a plan's."""
        return replace(
            ConditionSpec.none(),
            require_charging=self.only_charging,
            require_unmetered=self.only_unmetered,
            min_battery_level=self.min_battery,
        )

    def budgets(self, *, demo: bool) -> Budgets:
        """Return the app's budgets, as these choices tighten them.

        Parameters
        ----------
        demo : bool
            Whether the person started the local demo, whose rounds follow each other in seconds; the
            app's own :data:`SEPARATION_SECONDS` is then left out. No server can set this.
        """
        chosen = Budgets(
            per_day=Limits(contributions=self.contributions_per_day),
            min_separation_seconds=0.0 if demo else SEPARATION_SECONDS,
            max_epsilon_per_year=self.epsilon_per_year,
        )
        return DEFAULT_BUDGETS.tightened(chosen)


def load_settings(folder: Path) -> Settings:
    """Return what is in the file; the defaults if there is none or it cannot be read."""
    path = folder / FILE_NAME
    try:
        return decode_json(Settings, path.read_bytes(), what=FILE_NAME, limit=_LIMIT)
    except (OSError, DecodeError, EnrolmentTextError, ValueError):
        return Settings()


def save_settings(folder: Path, settings: Settings) -> None:
    """Write the file; a process that dies meanwhile leaves the one before."""
    partial = folder / f"{FILE_NAME}.partial"
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(encode_json(settings))
        file.flush()
        os.fsync(file.fileno())
    partial.replace(folder / FILE_NAME)
