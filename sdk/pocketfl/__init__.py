"""PocketFL: train compact models on the device that holds the data.

The names below are what an app needs; each is imported when it is first used, so that an app pays for
what it touches.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from pocketfl.attestation import AttestedAggregator as AttestedAggregator
    from pocketfl.budgets import Budgets as Budgets
    from pocketfl.budgets import Limits as Limits
    from pocketfl.conditions import ConditionSpec as ConditionSpec
    from pocketfl.device import Device as Device
    from pocketfl.device import DeviceLimits as DeviceLimits
    from pocketfl.device import RoundOutcome as RoundOutcome
    from pocketfl.errors import PocketFLError as PocketFLError
    from pocketfl.plan import Plan as Plan
    from pocketfl.runtimes import open_runtime as open_runtime
    from pocketfl.sealing import PinnedAggregator as PinnedAggregator
    from pocketfl.store import Collection as Collection
    from pocketfl.store import ExampleStore as ExampleStore
    from pocketfl.store import Field as Field
    from pocketfl.store import Retention as Retention
    from pocketfl.training import LocalTrainer as LocalTrainer

_HOMES = {
    "AttestedAggregator": "pocketfl.attestation",
    "Budgets": "pocketfl.budgets",
    "Collection": "pocketfl.store",
    "ConditionSpec": "pocketfl.conditions",
    "Device": "pocketfl.device",
    "DeviceLimits": "pocketfl.device",
    "ExampleStore": "pocketfl.store",
    "Field": "pocketfl.store",
    "Limits": "pocketfl.budgets",
    "LocalTrainer": "pocketfl.training",
    "PinnedAggregator": "pocketfl.sealing",
    "Plan": "pocketfl.plan",
    "PocketFLError": "pocketfl.errors",
    "Retention": "pocketfl.store",
    "RoundOutcome": "pocketfl.device",
    "open_runtime": "pocketfl.runtimes",
}

__all__ = ["__version__", *sorted(_HOMES)]  # noqa: PLE0604 - names come from the table above


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'pocketfl' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
