"""A device of the fleet: takes part in rounds, keeps its own limits, predicts with the latest model."""

from pocketfl.device.deployment import DeploymentInfo
from pocketfl.device.device import Device
from pocketfl.device.hooks import SessionEnd, SessionHooks
from pocketfl.device.limits import DeviceLimits
from pocketfl.device.models import ModelInfo
from pocketfl.device.outcome import RoundOutcome, RoundStatus
from pocketfl.device.plans import PlanCache
from pocketfl.device.sessions import PendingSession, Session

__all__ = [
    "DeploymentInfo",
    "Device",
    "DeviceLimits",
    "ModelInfo",
    "PendingSession",
    "PlanCache",
    "RoundOutcome",
    "RoundStatus",
    "Session",
    "SessionEnd",
    "SessionHooks",
]
