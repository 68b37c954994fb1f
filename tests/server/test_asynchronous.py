"""Asynchronous rounds at the back end: slots, late reports, releases by count, and deadlines."""

from __future__ import annotations

import numpy as np
import pytest

from pocketfl.plan import AsynchronousSpec
from pocketfl.protocol import Assignment, RetryWindow
from pocketfl_server.errors import Gone, Malformed
from pocketfl_server.records import Concurrency

from .conftest import AVERAGING, CHECK_IN, seal_update

SPEC = AsynchronousSpec(max_staleness=1, min_separation=2)
FEW = Concurrency(selection_size=4, open_slots=2, reports_per_release=2)


@pytest.fixture
def plan(back_end, make_plan):
    """A plan of asynchronous rounds, with its task and the first round open."""
    made = make_plan(
        privacy="none",
        asynchronous=SPEC,
        population=100,
        max_rounds=5,
        max_participations=5,
    )
    task = back_end.create_task("clicks", made.data, optimizer=AVERAGING, concurrency=FEW)
    assert task.concurrency == FEW
    assert back_end.create_task("clicks", made.data, optimizer=AVERAGING, concurrency=FEW) == task
    back_end.open_round("clicks", seconds=600)
    return made


def send(back_end, assignment, update, plan) -> None:
    back_end.upload(assignment.lease, seal_update(update, assignment, plan).data)


def test_a_release_follows_the_reports_and_takes_late_ones(back_end, fleet, plan) -> None:
    """Two reports release; a device of the round before counts in the next, with 181 / 256."""
    one, two, late = (fleet.check_in(name, "clicks", 1) for name in ("a", "b", "late"))
    assert back_end.close_due_rounds() == []
    for assignment in (one, two):
        send(back_end, assignment, np.full(5, 0.5), plan)
    (result,) = back_end.close_due_rounds()
    assert (result.round, result.state, result.new_version) == (1, "finished", 1)
    np.testing.assert_allclose(back_end.model_parameters("clicks", 1), 0.5, atol=0.005)
    # The next round is open at once, from the new version.
    (notice,) = back_end.notices().notices
    assert (notice.round, notice.model_version) == (2, 1)
    send(back_end, late, np.full(5, -0.5), plan)
    assert back_end.close_due_rounds() == []
    send(back_end, fleet.check_in("c", "clicks", 2), np.full(5, 0.5), plan)
    (result,) = back_end.close_due_rounds()
    assert (result.round, result.new_version) == (2, 2)
    moved = back_end.model_parameters("clicks", 2) - back_end.model_parameters("clicks", 1)
    np.testing.assert_allclose(moved, 0.5 * (1 - 181 / 256) / 2, atol=0.005)
    assert back_end.model("clicks", 2).reports == 2
    # An answer that was lost on the way is given again.
    send_again = seal_update(np.zeros(5), late, plan)
    with pytest.raises(Exception, match="another report"):
        back_end.upload(late.lease, send_again.data)


def test_a_report_that_is_too_late_is_refused_and_counts_are_kept(back_end, fleet, plan) -> None:
    """After the cut-off the lease is good for nothing; who took part is forgotten then."""
    late = fleet.check_in("late", "clicks", 1)
    for number in (1, 2):
        for name in ("a", "b"):
            assignment = fleet.check_in(f"{name}{number}", "clicks", number)
            send(back_end, assignment, np.full(5, 0.1), plan)
        (result,) = back_end.close_due_rounds()
        assert result.new_version == number
    with pytest.raises(Gone) as refusal:
        send(back_end, late, np.full(5, 0.1), plan)
    assert refusal.value.code == "round_closed"
    first, second = (back_end.funnel("clicks", number) for number in (1, 2))
    assert (first.leases, first.uploaded, first.accepted) == (3, 2, 2)
    assert (second.leases, second.uploaded, second.accepted) == (2, 2, 2)


def test_a_device_has_one_report_that_is_not_released(back_end, fleet, plan) -> None:
    """One that does not stay away by itself is sent away while its first report might still count."""
    answers = {}
    for number in (1, 2, 3):
        answers[number] = back_end.check_in(fleet.token("eager"), "clicks", number, CHECK_IN)
        for name in ("a", "b"):
            assignment = fleet.check_in(f"{name}{number}", "clicks", number)
            send(back_end, assignment, np.full(5, 0.1), plan)
        back_end.close_due_rounds()
    assert isinstance(answers[2], RetryWindow)
    assert answers[2].reason == "too_soon"
    assert isinstance(answers[1], Assignment)
    assert isinstance(answers[3], Assignment)


def test_slots_are_given_out_again_when_enough_are_free(back_end, fleet, plan) -> None:
    """Four at once; then two have to come back before anybody is let in, or their leases expire."""
    held = [fleet.check_in(f"d{n}", "clicks", 1) for n in range(4)]

    def ask(name: str) -> object:
        number = back_end.notices().notices[0].round
        return back_end.check_in(fleet.token(name), "clicks", number, CHECK_IN)

    answer = ask("e")
    assert isinstance(answer, RetryWindow) and answer.reason == "no_slot"
    send(back_end, held[0], np.zeros(5), plan)
    assert isinstance(ask("e"), RetryWindow)
    send(back_end, held[1], np.zeros(5), plan)
    # Two are free, over all rounds that are under way: the version has moved on meanwhile.
    back_end.close_due_rounds()
    assert not isinstance(ask("e"), RetryWindow)
    assert not isinstance(ask("f"), RetryWindow)
    assert isinstance(ask("g"), RetryWindow)
    turned_away = back_end.funnel("clicks", 1).turned_away
    assert turned_away == {"no_slot": 2}


def test_the_slots_of_lost_devices_are_free_once_their_leases_expire(
    back_end, fleet, plan, clock
) -> None:
    """A round that nobody answered for is followed by another one of the same version."""
    for n in range(4):
        fleet.check_in(f"d{n}", "clicks", 1)
    clock.now += 601
    (result,) = back_end.close_due_rounds()
    assert (result.state, result.reason, result.new_version) == (
        "aborted",
        "floor_not_reached",
        None,
    )
    (notice,) = back_end.notices().notices
    assert (notice.round, notice.model_version) == (2, 0)
    for n in range(4):
        fleet.check_in(f"e{n}", "clicks", 2)


def test_a_deadline_keeps_reports_for_the_next_release(back_end, fleet, plan, clock) -> None:
    """One report is below the floor of two: it waits, and counts in the next round's release."""
    fleet.report("a", "clicks", 1, np.full(5, 0.5), plan)
    clock.now += 601
    (result,) = back_end.close_due_rounds()
    assert result.state == "aborted"
    fleet.report("b", "clicks", 2, np.full(5, 0.5), plan)
    (result,) = back_end.close_due_rounds()
    assert (result.round, result.new_version) == (2, 1)
    assert back_end.model("clicks", 1).reports == 2
    np.testing.assert_allclose(
        back_end.model_parameters("clicks", 1), 0.5 * (1 + 181 / 256) / 2, atol=0.005
    )


def test_reports_that_are_none_let_the_round_wait_for_more(back_end, fleet, plan) -> None:
    """Below the floor for what was left out, nothing is lost: one more report releases all."""
    good = fleet.check_in("a", "clicks", 1)
    send(back_end, good, np.full(5, 0.5), plan)
    bad = fleet.check_in("b", "clicks", 1)
    back_end.upload(bad.lease, bytes(len(seal_update(np.zeros(5), bad, plan).data)))
    assert [result.state for result in back_end.close_due_rounds()] == ["open"]
    assert back_end.close_due_rounds() == []
    fleet.report("c", "clicks", 1, np.full(5, 0.5), plan)
    (result,) = back_end.close_due_rounds()
    assert result.new_version == 1
    funnel = back_end.funnel("clicks", 1)
    assert (funnel.accepted, funnel.rejected) == (2, {"cannot_open": 1})


def test_a_task_ends_with_its_last_round_and_forgets(back_end, fleet, plan) -> None:
    """After max_rounds releases no round is opened; an operator's abort opens none either."""
    for number in range(1, 6):
        for name in ("a", "b"):
            fleet.report(f"{name}{number}", "clicks", number, np.zeros(5), plan)
        back_end.close_due_rounds()
    task = back_end.task("clicks")
    assert (task.state, task.finished_reason) == ("finished", "max_rounds_reached")
    assert back_end.notices().notices == ()
    assert back_end.funnel("clicks", 5).leases == 2


def test_an_abort_opens_no_round(back_end, fleet, plan) -> None:
    """The operator has the last word; late reports are refused then."""
    late = fleet.check_in("late", "clicks", 1)
    assert back_end.abort_round("clicks").state == "aborted"
    assert back_end.notices().notices == ()
    with pytest.raises(Gone):
        send(back_end, late, np.zeros(5), plan)
    assert back_end.open_round("clicks", seconds=60).round == 2


def test_the_three_numbers_go_with_a_plan_that_allows_them(back_end, make_plan) -> None:
    """Neither without the other; a release is never below the floor."""
    plain = make_plan(privacy="none", name="plain")
    made = make_plan(privacy="none", name="async", asynchronous=SPEC)
    for plan, numbers in (
        (plain, FEW),
        (made, None),
        (made, Concurrency(selection_size=4, open_slots=1, reports_per_release=1)),
    ):
        with pytest.raises(Malformed):
            back_end.create_task("other", plan.data, optimizer=AVERAGING, concurrency=numbers)
    for numbers in ((0, 1, 1), (4, 5, 2), (4, 0, 2), (4, 1, 0)):
        with pytest.raises(ValueError, match="must be"):
            Concurrency(
                selection_size=numbers[0], open_slots=numbers[1], reports_per_release=numbers[2]
            )
