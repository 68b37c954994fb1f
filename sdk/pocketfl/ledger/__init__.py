"""The persistent account of what rounds were granted, what they cost, and what was refused."""

from pocketfl.ledger.clock import Uptime, system_uptime
from pocketfl.ledger.entries import (
    Outcome,
    PrivacySpent,
    RecordedRefusal,
    Refusal,
    Reservation,
)
from pocketfl.ledger.ledger import Ledger
from pocketfl.ledger.spending import Spending, stride_of

__all__ = [
    "Ledger",
    "Outcome",
    "PrivacySpent",
    "RecordedRefusal",
    "Refusal",
    "Reservation",
    "Spending",
    "Uptime",
    "stride_of",
    "system_uptime",
]
