"""Whether the state of the device allows training: battery, heat, network, use, storage, time.

Desktop and Android providers load their libraries when they are made, not when this is imported.
"""

from pocketfl.conditions.android import AndroidSignals
from pocketfl.conditions.checking import check_conditions, unmet
from pocketfl.conditions.defaults import PlatformSignals, default_signals
from pocketfl.conditions.desktop import DesktopSignals
from pocketfl.conditions.scripted import ScriptedSignals
from pocketfl.conditions.signals import SignalProvider, Signals, Thermal
from pocketfl.conditions.spec import ConditionSpec, HourWindow, UnknownSpec
from pocketfl.conditions.watch import ConditionWatch
from pocketfl.reasons import Reason

__all__ = [
    "AndroidSignals",
    "ConditionSpec",
    "ConditionWatch",
    "DesktopSignals",
    "HourWindow",
    "PlatformSignals",
    "Reason",
    "ScriptedSignals",
    "SignalProvider",
    "Signals",
    "Thermal",
    "UnknownSpec",
    "check_conditions",
    "default_signals",
    "unmet",
]
