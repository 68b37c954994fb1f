"""A device of the fleet: takes part in rounds, keeps its own limits, predicts with the latest model."""

from pocketfl.device.device import Device
from pocketfl.device.limits import DeviceLimits
from pocketfl.device.models import ModelInfo
from pocketfl.device.outcome import RoundOutcome, RoundStatus
from pocketfl.device.plans import PlanCache

__all__ = ["Device", "DeviceLimits", "ModelInfo", "PlanCache", "RoundOutcome", "RoundStatus"]
