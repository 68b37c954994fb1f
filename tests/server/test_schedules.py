"""Tasks that open their rounds by themselves: when, for how long, and by whom."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from typer.testing import CliRunner

from pocketfl.errors import TransportError
from pocketfl.plan import AsynchronousSpec
from pocketfl_server.commands.task import app
from pocketfl_server.daily_hours import DailyHours
from pocketfl_server.errors import Conflict, Malformed, NotFound
from pocketfl_server.operator_client import OperatorClient
from pocketfl_server.records import Concurrency, PauseRequest, Schedule, ScheduleRecord
from pocketfl_server.trusted.refusals import TrustedTierUnavailable
from pocketfl_server.what_next import schedule_line, what_next

from .conftest import AVERAGING, OPERATOR_KEY

MIDNIGHT = 1_800_000_000.0 - 1_800_000_000 % 86_400
HOURLY = Schedule(round_seconds=3600, pause_seconds=600)


def states(back_end) -> list[tuple[int, str]]:
    return [(result.round, result.state) for result in back_end.rounds("clicks")]


@pytest.fixture
def plan(back_end, make_plan):
    """A task that nobody has started; its plan allows three releases."""
    made = make_plan(max_rounds=3, max_participations=3)
    back_end.create_task("clicks", made.data, optimizer=AVERAGING)
    return made


def test_rounds_follow_one_another_until_the_plan_is_done(back_end, fleet, plan, clock) -> None:
    """Each opens a pause after the last one's end, and after the last release none does."""
    assert back_end.schedule("clicks").state == "never_started"
    began = clock.now
    record = back_end.start_task("clicks", HOURLY)
    assert (record.state, record.opened, record.round) == ("running", 1, 1)
    assert (record.next, record.next_at) == ("round_closes", began + 3600)
    assert record.following_at == began + 3600 + 600
    for number in (1, 2, 3):
        assert states(back_end)[-1] == (number, "open")
        fleet.reports(4, "clicks", number, np.full(5, 0.5), plan)
        clock.now += 3601
        back_end.turn_rounds()
        assert states(back_end)[-1] == (number, "finished")
        clock.now += 599
        back_end.turn_rounds()
        assert len(states(back_end)) == number  # not before the pause is over
        clock.now += 1
        back_end.turn_rounds()
    record = back_end.schedule("clicks")
    assert (record.state, record.reason, record.next) == ("ended", "max_rounds_reached", "nothing")
    assert "the plan's number of rounds is done" in what_next(record)
    with pytest.raises(Conflict, match="finished"):
        back_end.start_task("clicks", HOURLY)


def test_a_round_without_enough_reports_is_followed_by_the_next(back_end, plan, clock) -> None:
    """Nothing is released, and nobody has to start the task again; so many rounds, and no more."""
    back_end.start_task("clicks", Schedule(round_seconds=60, rounds=2))
    assert back_end.schedule("clicks").following_at == clock.now + 60
    for _ in range(3):
        clock.now += 61
        back_end.turn_rounds()
    assert states(back_end) == [(1, "aborted"), (2, "aborted")]
    record = back_end.schedule("clicks")
    assert (record.state, record.reason) == ("ended", "all_rounds_opened")
    assert back_end.task("clicks").state == "active"
    # Another schedule counts from the beginning.
    assert back_end.start_task("clicks", Schedule(round_seconds=60, rounds=1)).round == 3
    record = back_end.schedule("clicks")
    assert (record.opened, record.following_at) == (1, None)
    assert what_next(record).endswith("it is the last one")


def test_no_round_opens_that_the_accountant_would_refuse(back_end, fleet, make_plan, clock) -> None:
    """Devices do not work for a release that the budget does not allow."""
    plan = make_plan(noise_multiplier=3.0, epsilon=4.0, population=20)
    back_end.create_task("clicks", plan.data, optimizer=AVERAGING)
    back_end.start_task("clicks", Schedule(round_seconds=60))
    while back_end.schedule("clicks").state == "running":
        number = back_end.rounds("clicks")[-1].round
        fleet.reports(4, "clicks", number, np.full(5, 0.5), plan)
        clock.now += 61
        back_end.turn_rounds()
    assert {state for _, state in states(back_end)} == {"finished"}
    assert 1 < len(states(back_end)) < 8
    assert back_end.schedule("clicks").reason == "budget_exhausted"
    assert back_end.task("clicks").finished_reason == "budget_exhausted"
    assert "privacy budget" in what_next(back_end.schedule("clicks"))


def test_a_paused_task_waits_and_a_stopped_one_ends(back_end, fleet, plan, clock) -> None:
    """A pause is over with its resumption; what is stopped stays so until it is started."""
    back_end.start_task("clicks", Schedule(round_seconds=60))
    back_end.pause(None, PauseRequest(reason="holidays"))
    said = what_next(back_end.schedule("clicks"))
    assert said.startswith("round 1 is open until") and said.endswith("once the task is resumed")
    clock.now += 61
    back_end.turn_rounds()
    assert states(back_end) == [(1, "aborted")]
    assert back_end.schedule("clicks").next == "resume"
    assert "once the task is resumed" in what_next(back_end.schedule("clicks"))
    back_end.resume(None)
    back_end.turn_rounds()
    assert states(back_end)[-1] == (2, "open")
    record = back_end.stop_task("clicks")
    assert (record.state, record.reason, record.round) == ("ended", "stopped", 2)
    fleet.reports(4, "clicks", 2, np.full(5, 0.5), plan)
    clock.now += 61
    back_end.turn_rounds()
    back_end.turn_rounds()
    assert states(back_end) == [(1, "aborted"), (2, "finished")]
    assert back_end.start_task("clicks", Schedule(round_seconds=60)).round == 3


def test_a_round_that_an_operator_ends_is_followed_at_once(back_end, fleet, plan) -> None:
    """Also one that was opened by hand before the task was started."""
    back_end.open_round("clicks", seconds=60)
    assert back_end.start_task("clicks", Schedule(round_seconds=60)).opened == 0
    fleet.reports(4, "clicks", 1, np.full(5, 0.5), plan)
    back_end.close_round("clicks", 1)
    assert states(back_end) == [(1, "finished"), (2, "open")]
    back_end.abort_round("clicks", 2)
    assert states(back_end)[1:] == [(2, "aborted"), (3, "open")]
    assert back_end.schedule("clicks").opened == 2


def test_rounds_keep_to_their_hours(back_end, plan, clock) -> None:
    """At night only: none opens that would not close in time, whatever the hour it was started at."""
    clock.now = MIDNIGHT + 20 * 3600
    night = Schedule(round_seconds=3 * 3600, hours="22:00-06:00")
    record = back_end.start_task("clicks", night)
    assert (record.next, record.next_at) == ("round_opens", MIDNIGHT + 22 * 3600)
    opened = []
    for _ in range(40):
        clock.now += 3600
        back_end.turn_rounds()
        opened = [(r.opened_at - MIDNIGHT) / 3600 for r in back_end.rounds("clicks")]
    assert opened == [22, 25, 46, 49]
    assert schedule_line(back_end.schedule("clicks")) == (
        "rounds of 3 h, between 22:00 and 06:00 UTC; 4 opened"
    )
    # A clock that looks a little late cuts the round short by as much.
    hours = DailyHours.parse("08:00-09:00")
    assert hours.opening(MIDNIGHT + 8 * 3600 + 5, seconds=3600) == MIDNIGHT + 8 * 3600 + 5
    assert hours.closing(MIDNIGHT + 8 * 3600 + 5, seconds=3600) == MIDNIGHT + 9 * 3600


def test_a_restart_and_a_trusted_tier_that_is_away_forget_nothing(
    open_back_end, trusted, back_end, plan, clock
) -> None:
    """Another process goes on where the last one was; without the trusted tier it waits."""
    back_end.start_task("clicks", Schedule(round_seconds=60, rounds=3))
    back_end.close()

    class Away:
        down = True

        def __getattr__(self, name):
            def call(*arguments):
                if self.down:
                    raise TrustedTierUnavailable("away")
                return getattr(trusted, name)(*arguments)

            return call

    tier = Away()
    survivor = open_back_end(trusted_tier=tier)
    clock.now += 3600
    for _ in range(100):
        survivor.turn_rounds()
    assert states(survivor) == [(1, "closing")]
    tier.down = False
    clock.now += 60
    survivor.close_due_rounds()
    tier.down = True
    assert survivor.open_due_rounds() == []
    assert survivor.schedule("clicks").next == "round_opens"
    tier.down = False
    assert survivor.open_due_rounds() == []  # not again at once
    clock.now += 1
    survivor.turn_rounds()
    assert states(survivor) == [(1, "aborted"), (2, "open")]
    assert survivor.schedule("clicks").opened == 2


@pytest.mark.several_gateways
def test_of_several_gateways_one_opens_and_counts(open_back_end, back_end, plan, clock) -> None:
    """All look at once, round after round; each round is opened once, and the count is right."""
    gateways = [back_end, *(open_back_end() for _ in range(3))]
    back_end.start_task("clicks", Schedule(round_seconds=60, rounds=6))
    for _ in range(8):
        clock.now += 61
        start = threading.Barrier(len(gateways))
        opened = []

        def turn(gateway, start=start, opened=opened) -> None:
            start.wait()
            gateway.turn_rounds()
            opened.extend(gateway.open_due_rounds())

        threads = [threading.Thread(target=turn, args=(gateway,)) for gateway in gateways]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert states(back_end) == [(number, "aborted") for number in range(1, 7)]
    assert back_end.schedule("clicks").opened == 6
    assert back_end.schedule("clicks").reason == "all_rounds_opened"


def test_asynchronous_rounds_end_where_the_task_is_stopped(back_end, fleet, make_plan) -> None:
    """They follow one another by themselves, and a stop holds for the one that a release opens."""
    plan = make_plan(
        privacy="none",
        asynchronous=AsynchronousSpec(max_staleness=1, min_separation=2),
        population=100,
    )
    slots = Concurrency(selection_size=4, open_slots=2, reports_per_release=2)
    back_end.create_task("clicks", plan.data, optimizer=AVERAGING, concurrency=slots)
    with pytest.raises(Malformed, match="asynchronous"):
        back_end.start_task("clicks", HOURLY)
    back_end.start_task("clicks", Schedule(round_seconds=3600))
    fleet.reports(2, "clicks", 1, np.full(5, 0.5), plan)
    back_end.turn_rounds()
    assert states(back_end) == [(1, "finished"), (2, "open")]
    back_end.stop_task("clicks")
    for name in ("others", "of-them"):  # the same ones would come too soon
        fleet.report(name, "clicks", 2, np.full(5, 0.5), plan)
    back_end.close_round("clicks", 2)
    assert states(back_end) == [(1, "finished"), (2, "finished")]


@pytest.mark.parametrize(
    "wanted",
    [
        {"round_seconds": 0},
        {"round_seconds": 31 * 86_400},
        {"round_seconds": 60, "pause_seconds": -1},
        {"round_seconds": 60, "rounds": 0},
        {"round_seconds": 60, "hours": "22-6"},
        {"round_seconds": 60, "hours": "24:00-06:00"},
        {"round_seconds": 60, "hours": "06:00-06:00"},
        {"round_seconds": 3601, "hours": "23:30-00:30"},
    ],
    ids=lambda wanted: "-".join(map(str, wanted.values())),
)
def test_an_impossible_schedule_is_refused(wanted) -> None:
    """Before anything is written."""
    with pytest.raises(ValueError):
        Schedule(**wanted)


def test_a_person_starts_and_stops_on_the_command_line(served, back_end, plan, tmp_path) -> None:
    """And reads when the next round opens, and why none does."""
    (tmp_path / "key").write_text(OPERATOR_KEY)
    site = ["--url", served.url, "--operator-key-file", str(tmp_path / "key")]
    runner = CliRunner()

    def say(*words: str) -> str:
        result = runner.invoke(app, [*words, *site])
        assert result.exit_code == 0, result.output
        return result.stdout

    assert "never started" in say("show", "clicks")
    said = say("start", "clicks", "--round-seconds", "3600", "--pause-seconds", "600")
    assert "round 1 is open until" in said and "the next one opens at" in said
    assert say("start", "clicks", "--pause-seconds", "600") == said  # the same again
    shown = say("show", "clicks")
    assert "rounds of 1 h, 10 min apart; 1 opened" in shown and "next: round 1 is open" in shown
    assert "no further round: an operator stopped it" in say("stop", "clicks", "--keep-round")
    assert states(back_end) == [(1, "open")]
    assert "round 1: aborted (floor_not_reached)" in say("stop", "clicks")
    again = runner.invoke(app, ["stop", "clicks", *site])
    assert again.exit_code == 1 and "is not started" in str(again.exception)
    wrong = runner.invoke(app, ["start", "clicks", "--hours", "night", *site])
    assert wrong.exit_code == 1 and "HH:MM-HH:MM" in str(wrong.exception)
    with OperatorClient(served.url, OPERATOR_KEY) as operator:
        assert isinstance(operator.schedule("clicks"), ScheduleRecord)
        with pytest.raises(TransportError, match="no task") as caught:
            operator.start("none", HOURLY)
        assert caught.value.code == "unknown_task"
    with pytest.raises(NotFound):
        back_end.schedule("none")
