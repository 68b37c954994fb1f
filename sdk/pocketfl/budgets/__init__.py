"""What a session may cost the device, what it does cost, and how energy and privacy are counted."""

from pocketfl.budgets.amounts import FLOWS, LEVELS, MEASURES, NOTHING, Amounts
from pocketfl.budgets.battery import (
    AndroidBattery,
    BatteryCounter,
    BatteryReading,
    SysfsBattery,
    default_battery,
)
from pocketfl.budgets.energy import EnergyModel
from pocketfl.budgets.epsilon import contribution_rho, epsilon_of
from pocketfl.budgets.limits import (
    DEFAULT_BUDGETS,
    HARD_BOUNDS,
    Budgets,
    Limits,
    agreed_budgets,
)
from pocketfl.budgets.meter import Meter

__all__ = [
    "DEFAULT_BUDGETS",
    "FLOWS",
    "HARD_BOUNDS",
    "LEVELS",
    "MEASURES",
    "NOTHING",
    "Amounts",
    "AndroidBattery",
    "BatteryCounter",
    "BatteryReading",
    "Budgets",
    "EnergyModel",
    "Limits",
    "Meter",
    "SysfsBattery",
    "agreed_budgets",
    "contribution_rho",
    "default_battery",
    "epsilon_of",
]
