"""The device's log: counts by day, each of them told once, and never more than a class of reasons."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pocketfl.database import Database
from pocketfl.device import RoundOutcome
from pocketfl.device.hooks import SessionHooks
from pocketfl.funnel import ALL_EVENTS, DayLog, event, funnel_query
from pocketfl.funnel.classes import event_of_interruption, event_of_rejection
from pocketfl.funnel.hooks import FunnelHooks
from pocketfl.reasons import Reason

DAY = 86_400.0


class Clock:
    now = 20_000 * DAY + 5

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    with Database(tmp_path / "device.db") as opened:
        yield opened


@pytest.fixture
def log(database: Database, clock: Clock) -> DayLog:
    return DayLog(database, clock=clock)


def outcome(status: str, code: str, *phases: str) -> RoundOutcome:
    return RoundOutcome(
        status=status,  # type: ignore[arg-type]
        code=code,
        reason="",
        phases=dict.fromkeys(phases, 0.1),
    )


def test_events_are_counted_on_their_day_and_forgotten(log: DayLog, clock: Clock) -> None:
    """A day's counts stand when it is over, and are gone after a week or so."""
    log.count([event("check_in"), event("error", "network")])
    log.count([event("error", "network")])
    clock.now += DAY
    log.count([event("check_in")])
    assert log.counts(20_000) == {event("check_in"): 1, event("error", "network"): 2}
    assert log.counts(20_001) == {event("check_in"): 1}
    clock.now += 10 * DAY
    log.count([])
    assert log.counts(20_000) == {}


def test_a_day_is_told_once_whoever_asks(log: DayLog) -> None:
    """Two tasks cannot each have the same day: its privacy is for one report."""
    assert log.claim(20_000, task="a", round=1)
    assert log.claim(20_000, task="a", round=1)
    assert not log.claim(20_000, task="a", round=2)
    assert not log.claim(20_000, task="b", round=1)
    assert log.claim(20_001, task="b", round=1)


@pytest.mark.parametrize(
    ("ended", "expected"),
    [
        (outcome("failed", "unreachable", "check_in"),
         {event("eligible"), event("error", "network")}),
        (outcome("failed", "update", "features", "train"),
         {event("downloaded"), event("error", "model")}),
        (outcome("failed", "too_many_requests"), {event("error", "server")}),
        (outcome("failed", "busy"), set()),
        (outcome("turned_away", "fleet_paused"), {event("turned_away", "paused")}),
        (outcome("no_round", "no_round", "notices"), set()),
        (outcome("interrupted", "upload_waits", "notices"), set()),
    ],
)  # fmt: skip
def test_a_run_becomes_how_far_it_came_and_a_class_of_why_no_further(
    log: DayLog, ended: RoundOutcome, expected: set[object]
) -> None:
    """What is counted is on the closed list; a run that found nothing to do is not counted."""
    hooks = FunnelHooks(log, inner=SessionHooks())
    hooks.run_began()
    hooks.run_ended(ended, reasons=())
    assert set(log.counts(20_000)) == expected
    assert expected <= set(ALL_EVENTS)


def test_a_process_that_was_ended_is_known_to_the_next_one(log: DayLog) -> None:
    """Without an end on record, the next process counts a kill, once."""
    log.open([event("check_in")])
    for _ in range(2):
        hooks = FunnelHooks(log, inner=SessionHooks())
        hooks.run_began()
        hooks.run_ended(outcome("no_round", "no_round"), reasons=())
    assert log.counts(20_000) == {event("check_in"): 1, event("interrupted", "killed"): 1}
    hooks.run_began()
    hooks.run_crashed(MemoryError())
    assert log.counts(20_000)[event("error", "memory")] == 1


def test_a_session_in_another_process_is_not_taken_for_a_killed_one(
    log: DayLog, database: Database
) -> None:
    """A run beside it counts no kill and leaves its mark; the next after its end counts one."""
    program = (
        "import sys; from pocketfl.process_mark import process_mark; "
        "print(process_mark().decode(), flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        database.write_state("funnel.running", other.stdout.readline().strip().encode())
        beside = FunnelHooks(log, inner=SessionHooks())
        beside.run_began()
        beside.run_ended(outcome("failed", "too_many_requests"), reasons=())
        assert log.counts(20_000) == {event("error", "server"): 1}
        assert log.is_open()
        other.kill()
    for _ in range(2):
        FunnelHooks(log, inner=SessionHooks()).run_began()
    assert not log.is_open()
    assert log.counts(20_000)[event("interrupted", "killed")] == 1


@pytest.mark.parametrize(
    ("condition", "reason"),
    [
        ("free memory", "memory"),
        ("peak_memory_bytes of this round", "memory"),
        ("battery", "battery"),
        ("thermal status", "thermal"),
        ("free storage", "storage"),
        ("cpu_seconds of this round", "budget"),
        ("local time", "other"),
    ],
)
def test_what_stopped_a_session_becomes_a_class(condition: str, reason: str) -> None:
    """The words of conditions and limits are told apart; what they say stays on the device."""
    why = Reason(condition=condition, observed="x", required="y")
    assert event_of_interruption([why]) == event("interrupted", reason)
    assert event_of_interruption([]) == event("interrupted", "app")


def test_what_is_not_on_the_list_does_not_exist() -> None:
    """No code of a server and no typo makes a new counter."""
    assert event_of_rejection("a code from the future") == event("rejected", "other")
    with pytest.raises(ValueError, match="has no reason"):
        event("error", "user-17")
    assert funnel_query().length == len(ALL_EVENTS)


def test_a_whole_round_is_counted_step_by_step(log: DayLog) -> None:
    """What a session writes together with its steps; a run that went well adds nothing of its own."""
    hooks = FunnelHooks(log, inner=SessionHooks())
    hooks.run_began()
    hooks.began(None, manifest=None, resumed=False, spent={})  # type: ignore[arg-type]
    assert log.is_open()
    hooks.prepared(None, None, None)  # type: ignore[arg-type]
    hooks.settled(task="a", round=1, end="accepted", code="reported")
    assert not log.is_open()
    hooks.run_ended(outcome("completed", "reported", "check_in", "features", "upload"), reasons=())
    steps = ("eligible", "check_in", "downloaded", "trained", "sealed", "uploaded", "accepted")
    assert log.counts(20_000) == {event(step): 1 for step in steps}
