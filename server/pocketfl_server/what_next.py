"""What happens next to a task, in a sentence: the same on the command line and on the dashboard."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

from pocketfl_server.records import ScheduleRecord

_ALL_OPENED: Final = "all_rounds_opened"
_ENDED: Final = {
    "stopped": "an operator stopped it",
    _ALL_OPENED: "all rounds that were asked for have been opened",
    "budget_exhausted": "the privacy budget allows no further release",
    "max_rounds_reached": "the plan's number of rounds is done",
    "diverged": "the model diverged: its parameters would not be finite",
}


def what_next(record: ScheduleRecord) -> str:
    """Return a sentence.

    Parameters
    ----------
    record : ScheduleRecord
        Of the task.
    """
    parts = []
    if record.next == "round_closes" and record.next_at is not None:
        parts.append(f"round {record.round} is open until {moment(record.next_at)}")
    if record.state == "ended":
        parts.append(f"no further round: {_ENDED.get(record.reason or '', record.reason)}")
    elif _is_last(record):
        parts.append("it is the last one" if parts else f"no further round: {_ENDED[_ALL_OPENED]}")
    elif record.next == "round_opens" and record.next_at is not None:
        parts.append(f"the next round opens at {moment(record.next_at)}")
    elif record.following_at is not None:
        parts.append(f"the next one opens at {moment(record.following_at)}")
    elif record.state == "running":
        parts.append("the next one opens once the task is resumed")
    elif not parts:
        parts.append("no round opens by itself: the task was never started")
    return ", ".join(parts)


def _is_last(record: ScheduleRecord) -> bool:
    schedule = record.schedule
    return (
        record.state == "running"
        and schedule is not None
        and schedule.rounds is not None
        and record.opened >= schedule.rounds
    )


def schedule_line(record: ScheduleRecord) -> str:
    """Return how rounds follow one another; empty for a task that was never started."""
    schedule = record.schedule
    if schedule is None:
        return ""
    parts = [f"rounds of {duration(schedule.round_seconds)}"]
    if schedule.pause_seconds:
        parts.append(f"{duration(schedule.pause_seconds)} apart")
    if schedule.hours is not None:
        parts.append(f"between {schedule.hours.replace('-', ' and ')} UTC")
    limit = "" if schedule.rounds is None else f" of {schedule.rounds}"
    return f"{', '.join(parts)}; {record.opened}{limit} opened"


def moment(seconds: float) -> str:
    """Return a Unix time as people read it."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def duration(seconds: float) -> str:
    """Return a length of time in the largest unit that makes it a whole number."""
    for unit, length in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= length and seconds % length == 0:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:g} s"
