"""When this device tries to take part, whose turn it is, and what stops it altogether."""

from pocketfl.scheduling.lock import SessionLock
from pocketfl.scheduling.pacing import Delay, Outcome, Pacing, Verdict, judge
from pocketfl.scheduling.scheduler import Decision, Participant, Scheduler
from pocketfl.scheduling.switch import KillSwitch

__all__ = [
    "Decision",
    "Delay",
    "KillSwitch",
    "Outcome",
    "Pacing",
    "Participant",
    "Scheduler",
    "SessionLock",
    "Verdict",
    "judge",
]
