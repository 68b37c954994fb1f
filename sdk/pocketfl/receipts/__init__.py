"""What left this device and what for: a receipt per contribution, and the protocol's own cost."""

from pocketfl.receipts.audit import Audit, read_audit
from pocketfl.receipts.book import Receipts
from pocketfl.receipts.receipt import (
    REPORT_KINDS,
    Contribution,
    ContributionOutcome,
    Overhead,
    PrivacyLoss,
    Receipt,
)

__all__ = [
    "REPORT_KINDS",
    "Audit",
    "Contribution",
    "ContributionOutcome",
    "Overhead",
    "PrivacyLoss",
    "Receipt",
    "Receipts",
    "read_audit",
]
