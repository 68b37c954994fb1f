"""Which versions of the SDK a fleet runs: coarse counts of what check-ins say, and nobody's name.

Counts gather in memory and are added to the database once a second, all at once: no row says who
checked in with what, and a gateway that is killed loses a second of them. They are shown when a round
has ended, in whole tens and only from a floor on, so that no difference between two looks is about one
device.
"""

from __future__ import annotations

import re
import threading
from collections import Counter
from collections.abc import Mapping
from typing import Final

from sqlalchemy import bindparam, select

from pocketfl.protocol import CheckIn
from pocketfl_server.database import Database, round_counts, rounds
from pocketfl_server.records import FleetVersions

FLOOR: Final = 20
"""Versions that fewer devices have are counted together."""
STEP: Final = 10
"""Counts are shown in whole multiples of it."""
MOST_VERSIONS: Final = 50
"""Of a round; a stranger who makes versions up fills no table."""
OTHER: Final = "other"
SDK: Final = "sdk"
SCHEMA: Final = "plan_schema"
_VERSION: Final = re.compile(r"\d{1,4}(\.\d{1,4}){0,3}")

_OF_LAST_ROUND = select(
    round_counts.c.round, round_counts.c.stage, round_counts.c.reason, round_counts.c.count
).where(
    round_counts.c.task == bindparam("task"),
    round_counts.c.stage.in_((SDK, SCHEMA)),
    round_counts.c.round
    == select(rounds.c.number)
    .where(
        rounds.c.task == bindparam("task"),
        rounds.c.ended_at.is_not(None),
        rounds.c.number.in_(
            select(round_counts.c.round).where(
                round_counts.c.task == bindparam("task"), round_counts.c.stage == SDK
            )
        ),
    )
    .order_by(rounds.c.number.desc())
    .limit(1)
    .scalar_subquery(),
)


class Versions:
    """Counts versions of those that get a place in a round.

    Parameters
    ----------
    database : Database
        Where counts are kept, beside those of the round's funnel.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lock = threading.Lock()
        self._seen: Counter[tuple[str, int, str, str]] = Counter()
        self._known: dict[tuple[str, int], set[str]] = {}
        insert = database.insert(round_counts)
        self._add = insert.on_conflict_do_update(
            index_elements=list(round_counts.primary_key.columns),
            set_={"count": round_counts.c.count + insert.excluded.count},
        )

    def saw(self, task: str, number: int, request: CheckIn) -> None:
        """Count a device that got a place, in memory."""
        found = _VERSION.match(request.sdk[:32])
        sdk = OTHER if found is None else found[0]
        newest = max(request.plan_schemas, default=0)
        schema = str(newest) if 0 < newest < MOST_VERSIONS else OTHER
        with self._lock:
            known = self._known.setdefault((task, number), set())
            if len(known) >= MOST_VERSIONS and sdk not in known:
                sdk = OTHER
            known.add(sdk)
            self._seen[task, number, SDK, sdk] += 1
            self._seen[task, number, SCHEMA, schema] += 1

    def keep(self) -> None:
        """Add to the database what was counted since the last time."""
        with self._lock:
            seen, self._seen = self._seen, Counter()
            for earlier in list(self._known)[:-16]:
                del self._known[earlier]
        if not seen:
            return
        rows = [
            {"task": task, "round": number, "stage": stage, "reason": version, "count": count}
            for (task, number, stage, version), count in sorted(seen.items())
        ]
        with self._database.writing() as connection:
            connection.execute(self._add, rows)

    def of_last_round(self, task: str) -> FleetVersions | None:
        """Return the versions of the last round that has ended; None before there is one."""
        with self._database.reading() as connection:
            rows = connection.execute(_OF_LAST_ROUND, {"task": task}).all()
        if not rows:
            return None
        counts: dict[str, dict[str, int]] = {SDK: {}, SCHEMA: {}}
        for _, stage, version, count in rows:
            counts[stage][version] = int(count)
        return FleetVersions(
            task=task,
            round=int(rows[0].round),
            sdk=_coarse(counts[SDK]),
            plan_schema=_coarse(counts[SCHEMA]),
        )


def _coarse(counts: Mapping[str, int]) -> dict[str, int]:
    """Return counts in whole steps, most first; what is below the floor as one, if that reaches it."""
    shown = {version: count for version, count in counts.items() if count >= FLOOR}
    rest = sum(counts.values()) - sum(shown.values())
    if rest >= FLOOR:
        shown[OTHER] = shown.get(OTHER, 0) + rest
    return {
        version: count - count % STEP
        for version, count in sorted(shown.items(), key=lambda item: (-item[1], item[0]))
    }
