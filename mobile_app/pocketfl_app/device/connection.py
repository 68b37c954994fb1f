"""The SDK's device for this install and its settings."""

from __future__ import annotations

from pocketfl.device import Device, SessionHooks
from pocketfl.sealing import PinnedAggregator
from pocketfl.store import ExampleStore
from pocketfl_app.bundle import Trust
from pocketfl_app.home import Home
from pocketfl_app.settings import Settings


def trusted_keys(settings: Settings, trust: Trust) -> tuple[str, ...]:
    """Return the modellers whose plans are trusted: those built in, and the server's own."""
    if settings.site is None or settings.site.plan_key is None:
        return trust.plan_keys
    return (*trust.plan_keys, settings.site.plan_key)


def open_device(
    store: ExampleStore,
    settings: Settings,
    trust: Trust,
    home: Home,
    *,
    hooks: SessionHooks | None = None,
) -> Device:
    """Make the device; close it when done.

    Raises
    ------
    ValueError
        If there is no server.
    """
    if settings.site is None:
        raise ValueError("there is no server: join one in the settings")
    return Device(
        store,
        server=settings.site.server,
        plan_keys=trusted_keys(settings, trust),
        aggregator=PinnedAggregator(settings.site.aggregator),
        enrolment_key=settings.site.enrolment,
        runtime=settings.runtime,
        conditions=settings.conditions(),
        budgets=settings.budgets(demo=home.demo),
        hooks=hooks,
    )
