"""What the Train, Budget and Privacy screens show of this device, read in one go off the UI thread."""

from __future__ import annotations

import io
import time
from dataclasses import dataclass

from pocketfl.budgets import Amounts, Budgets, agreed_budgets
from pocketfl.conditions import ConditionSpec, PlatformSignals, Signals
from pocketfl.conditions.checking import unmet
from pocketfl.device.explanation import Explanation, explain
from pocketfl.ledger import Ledger, PrivacySpent
from pocketfl.reasons import Reason
from pocketfl.receipts import Receipt, Receipts
from pocketfl.scheduling.switch import KillSwitch
from pocketfl.store import ExampleStore
from pocketfl_app.bundle import Bundle
from pocketfl_app.device.connection import open_device
from pocketfl_app.device.models import ModelInUse, model_in_use
from pocketfl_app.home import Home
from pocketfl_app.settings import Settings

DAY = 86_400.0
MONTH = 30 * DAY


@dataclass(frozen=True, kw_only=True)
class Status:
    """One look at the device.

    Attributes
    ----------
    signals : Signals
        Battery, network and the like.
    broken : tuple of Reason
        Conditions that are not met now.
    explanation : Explanation
        Whether and when a round may run; of the conditions alone while there is no server.
    today, month : Amounts
        What rounds cost in the last 24 hours and 30 days.
    privacy : PrivacySpent
        In the last 365 days.
    budgets : Budgets
        What holds.
    receipts : tuple of Receipt
        Newest first.
    switched_off : str or None
        Why training is switched off, or None.
    model : ModelInUse
        What predicts now.
    """

    signals: Signals
    broken: tuple[Reason, ...]
    explanation: Explanation
    today: Amounts
    month: Amounts
    privacy: PrivacySpent
    budgets: Budgets
    receipts: tuple[Receipt, ...]
    switched_off: str | None
    model: ModelInUse


def read_status(store: ExampleStore, settings: Settings, bundle: Bundle, home: Home) -> Status:
    """Look at the device; takes some milliseconds, and asks no server."""
    signals = PlatformSignals(store.database.path).read()
    conditions = bundle.plan.manifest.eligibility.conditions.tightened(settings.conditions())
    broken = unmet(conditions, signals, now=time.time())
    budgets = agreed_budgets(app=settings.budgets(demo=home.demo))
    ledger = Ledger(store.database)
    return Status(
        signals=signals,
        broken=broken,
        explanation=_explain(store, settings, bundle, home, broken),
        today=ledger.used(seconds=DAY),
        month=ledger.used(seconds=MONTH),
        privacy=ledger.privacy(delta=budgets.delta or 1e-6),
        budgets=budgets,
        receipts=Receipts(store.database).audit().receipts[::-1],
        switched_off=KillSwitch(store.database).reason,
        model=model_in_use(store),
    )


def conditions_of(settings: Settings, bundle: Bundle) -> ConditionSpec:
    """Return what the bundled plan and the person ask of the device's state."""
    return bundle.plan.manifest.eligibility.conditions.tightened(settings.conditions())


def _explain(
    store: ExampleStore,
    settings: Settings,
    bundle: Bundle,
    home: Home,
    broken: tuple[Reason, ...],
) -> Explanation:
    if settings.site is None:
        return explain(broken, now=time.time(), scheduled=None)
    with open_device(store, settings, bundle.trust, home) as device:
        return device.explain(file=io.StringIO())
