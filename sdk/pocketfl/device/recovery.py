"""What a device puts in order after its memory was cut short: by a revocation, a crash, or damage.

A session is written and removed together with its reservation and its receipt. Only two things part
them: revoking a collection takes the session alone, and damage to the file takes whatever it hits.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Final

from pocketfl.database import LOST_AT_STATE, Database
from pocketfl.ledger import Ledger, Outcome
from pocketfl.reasons import Reason
from pocketfl.receipts import Receipts

HOLD_BACK_SECONDS: Final = 86_400.0
"""How long a device takes no part after it lost what says which rounds it contributed to, or what it
spent: as long as a day's budget, and longer than most rounds are open."""

_HELD_STATE: Final = "device.held_back"
_CODE: Final = "session_lost"
_RECEIPTS: Final = frozenset({"everything", "receipts"})

# What the device must know to contribute once per round and to keep to its budgets; the state also has
# the switch that forbids training.
_MEMORY: Final = frozenset(
    {
        "everything",
        "participations",
        "device_state",
        "ledger_entries",
        "ledger_clock",
        "ledger_tasks",
        # Which days' logs were reported.
        "funnel_days",
    }
)


def settle_orphans(database: Database, *, ledger: Ledger, receipts: Receipts) -> int:
    """Close every reservation and receipt whose session is gone.

    Where a report was sealed it may have been sent, and so where nobody knows whether one was: that
    counts as sent (``unknown``). Without a report there was nothing to send (``unsent``).

    Parameters
    ----------
    database : Database
        The device's file; one transaction.
    ledger, receipts
        Of the same file.

    Returns
    -------
    int
        How many rounds were closed.
    """
    receipts_lost = not _RECEIPTS.isdisjoint(database.lost_tables())
    with database.transaction():
        has_sessions = database.query("SELECT 1 FROM sqlite_schema WHERE name = 'sessions'")
        open_rounds = (
            set(database.query("SELECT task, round FROM sessions")) if has_sessions else set()
        )
        closed = set()
        for task, number in receipts.unsettled():
            if (task, number) not in open_rounds:
                receipts.settle(task=task, round=number, outcome="unknown", code=_CODE)
                closed.add((task, number))
        for kept in ledger.unsettled():
            if (kept.task, kept.round) not in open_rounds:
                receipt = receipts.find(task=kept.task, round=kept.round)
                outcome: Outcome = "unsent"
                if receipt is not None and receipt.outcome != "abandoned":
                    outcome = "unknown" if receipt.outcome == "unknown" else "sent"
                elif receipt is None and receipts_lost:
                    outcome = "unknown"
                ledger.settle(kept, outcome=outcome)
                closed.add((kept.task, kept.round))
        return len(closed)


class HoldBack:
    """Keeps a device that lost its memory from taking part before a day has passed.

    It could otherwise contribute to a round twice, or spend a day's budget again.

    Parameters
    ----------
    database : Database
        The device's file; remembers since when, over restarts.
    clock : callable
        Unix time in seconds.
    """

    def __init__(self, database: Database, *, clock: Callable[[], float]) -> None:
        self._database = database
        self._clock = clock
        self._began: float | None = None
        self._after = ""
        self._is_read = False

    def reasons(self) -> tuple[Reason, ...]:
        """Return why the device holds back, and for how long; empty when it does not."""
        if not self._is_read:
            self._read()
            self._is_read = True
        if self._began is None:
            return ()
        now = self._clock()
        if now < self._began:
            # The clock was set back: what is left of the day is not known, and a day is enough.
            self._begin(now)
        left = self._began + HOLD_BACK_SECONDS - now
        if left <= 0:
            self._began = None
            return ()
        return (
            Reason(
                condition="memory of earlier rounds",
                observed="lost when the store's file was damaged",
                required=f"{HOLD_BACK_SECONDS / 3600:.0f} h without taking part",
                retry_seconds=(left, left),
            ),
        )

    def _read(self) -> None:
        lost_at = self._database.read_state(LOST_AT_STATE)
        if lost_at is None:
            return
        kept = self._database.read_state(_HELD_STATE)
        try:
            record = json.loads(kept) if kept is not None else {}
            self._began, self._after = float(record["since"]), str(record["after"])
        except (ValueError, TypeError, KeyError):
            self._began, self._after = None, ""
        named = lost_at.decode("utf-8", "replace")
        if self._after != named and not _MEMORY.isdisjoint(self._database.lost_tables()):
            # By the device's own clock, from when it first learns of it.
            self._after = named
            self._begin(self._clock())

    def _begin(self, since: float) -> None:
        self._began = since
        record = json.dumps({"since": since, "after": self._after})
        self._database.write_state(_HELD_STATE, record.encode())
