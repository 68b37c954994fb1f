"""Rounds in the background: what is due is run, one round after the other, until nothing is.

A round watches the conditions itself and ends at the next batch when one breaks; then this ends too,
for a phone that is wanted back is not asked again at once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from pocketfl.device import RoundOutcome
from pocketfl.store import ExampleStore
from pocketfl_app.bundle import load_bundle
from pocketfl_app.device.connection import open_device
from pocketfl_app.device.drawings import Drawings
from pocketfl_app.home import Home
from pocketfl_app.settings import load_settings

MOST_ROUNDS: Final = 8
"""In one go: Android gives a service of this kind some hours a day."""


def run_rounds(home: Home, tell: Callable[[RoundOutcome | None], None]) -> tuple[RoundOutcome, ...]:
    """Take part in what is due and return what became of it.

    Parameters
    ----------
    home : Home
        The install.
    tell : callable
        Told None before each round, and its outcome after it.

    Returns
    -------
    tuple of RoundOutcome
        Empty where the person has not chosen rounds without being asked, there is no server, or nothing
        is due.
    """
    settings = load_settings(home.data)
    if settings.site is None or not settings.automatic:
        return ()
    bundle = load_bundle(home.assets)
    found: list[RoundOutcome] = []
    with ExampleStore(home.store) as store:
        Drawings(store)
        with open_device(store, settings, bundle.trust, home) as device:
            while len(found) < MOST_ROUNDS:
                tell(None)
                outcomes = device.run_due()
                for outcome in outcomes:
                    tell(outcome)
                found += outcomes
                if not outcomes or not any(outcome.status == "completed" for outcome in outcomes):
                    break
    return tuple(found)
