"""The scheduler waits as it was told, over restarts and clock jumps, and gives each task its turn."""

from __future__ import annotations

import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pocketfl.database import Database
from pocketfl.scheduling import Scheduler

from .conftest import NOW, Clock, ScriptedDevice, outcome


def test_a_new_device_tries_at_once_and_then_waits(open_scheduler, device, clock) -> None:
    """Nothing runs before its time, and the decision says why and until when."""
    scheduler = open_scheduler()
    assert scheduler.decide().due
    assert [o.status for o in scheduler.run_due()] == ["no_round"]
    assert scheduler.run_due() == ()
    decision = scheduler.decide()
    assert not decision.due
    assert decision.next_attempt == scheduler.next_attempt == NOW + 900
    (reason,) = decision.reasons
    assert reason.condition == "schedule"
    assert reason.retry_seconds == (900, 900)
    clock.now += 899
    assert scheduler.run_due() == ()
    clock.now += 1
    assert len(scheduler.run_due()) == 1
    assert device.asked == [None, None]


def test_waits_survive_a_restart(open_scheduler, device, clock, path) -> None:
    """A process that is started again does not knock again."""
    device.answers[None] = outcome("turned_away", "round_closed", retry_after=5000.0)
    open_scheduler().run_due()
    with Database(path) as database:
        later = open_scheduler(database=database)
        assert later.run_due() == ()
        assert later.next_attempt == NOW + 5000
        clock.now += 5000
        assert len(later.run_due()) == 1


def test_a_clock_set_back_does_not_lengthen_a_wait(open_scheduler, clock) -> None:
    """After a jump of a year into the past the wait starts afresh, with the same length."""
    scheduler = open_scheduler()
    scheduler.run_due()
    clock.now -= 365 * 86_400
    assert scheduler.next_attempt == clock.now + 900
    clock.now += 900
    assert scheduler.decide().due


def test_a_clock_set_forward_and_back_does_not_either(open_scheduler, clock) -> None:
    """A try that was made in a wrong future does not bind the device until then."""
    scheduler = open_scheduler()
    clock.now += 10 * 365 * 86_400
    scheduler.run_due()
    clock.now = NOW
    assert scheduler.next_attempt <= NOW + 900


def test_the_least_recently_served_task_comes_first(open_scheduler, device, clock) -> None:
    """Three tasks that always have a round take turns."""
    tasks = ("a", "b", "c")
    for task in tasks:
        device.answers[task] = outcome("completed", "reported", task=task)
    scheduler = open_scheduler(tasks=tasks)
    for _ in range(9):
        assert len(scheduler.run_due()) == 1
        clock.now += 400
    assert device.asked == ["a", "b", "c"] * 3
    assert scheduler.order(("c", "b", "a", "new")) == ("new", "a", "b", "c")


def test_a_task_with_nothing_to_do_passes_its_turn_on(open_scheduler, device, clock) -> None:
    """Cheap answers let the next task try at once, and one contribution ends the turn."""
    device.answers.update(
        a=outcome("no_round"),
        b=outcome("ineligible", "too_few_examples"),
        c=outcome("completed", "reported"),
        d=outcome("completed", "reported"),
    )
    scheduler = open_scheduler(tasks=("a", "b", "c", "d"))
    assert len(scheduler.run_due()) == 3
    assert scheduler.decide().task == "d"
    assert len(scheduler.run_due()) == 1
    assert device.asked == ["a", "b", "c", "d"]
    assert scheduler.run_due() == ()


def test_the_device_s_own_choice_counts_as_a_turn(open_scheduler, device) -> None:
    """Where the app names no tasks, the task that was served goes to the end all the same."""
    device.answers[None] = outcome("completed", "reported", task="a")
    scheduler = open_scheduler()
    scheduler.run_due()
    assert scheduler.order(("a", "b")) == ("b", "a")


def test_an_unreachable_server_is_asked_once_for_all_tasks(open_scheduler, device, clock) -> None:
    """The other tasks wait with the first, and keep their places."""
    device.answers["a"] = outcome("failed", "unreachable")
    scheduler = open_scheduler(tasks=("a", "b"))
    scheduler.run_due()
    assert device.asked == ["a"]
    assert scheduler.decide().next_attempt == NOW + 900
    clock.now += 900
    device.answers["a"] = outcome("completed", "reported")
    scheduler.run_due()
    assert device.asked == ["a", "a"]


def test_an_error_of_the_program_does_not_become_a_loop(open_scheduler, device, clock) -> None:
    """The exception comes out, the next try waits, and the other task goes first."""
    device.answers["a"] = RuntimeError("a bug")
    device.answers["b"] = outcome("completed", "reported")
    scheduler = open_scheduler(tasks=("a", "b"))
    with pytest.raises(RuntimeError, match="a bug"):
        scheduler.run_due()
    clock.now += 900
    scheduler.run_due()
    assert device.asked == ["a", "b"]


def test_waits_of_its_own_can_be_cut_short_but_not_the_server_s(open_scheduler, device) -> None:
    """Plugged in: conditions are looked at again, a server's window stays."""
    device.answers["a"] = outcome("ineligible", "conditions_or_budget", retry_after=20_000.0)
    device.answers["b"] = outcome("turned_away", "round_closed", retry_after=5000.0)
    scheduler = open_scheduler(tasks=("a", "b"))
    scheduler.run_due()
    assert scheduler.next_attempt == NOW + 5000
    scheduler.retry_now()
    assert scheduler.decide().task == "a"
    scheduler.run_due()
    assert device.asked == ["a", "b", "a"]


def test_switched_off_means_off_over_restarts(open_scheduler, device, path) -> None:
    """No session, no next try, a reason; and on again it goes on where it was."""
    scheduler = open_scheduler()
    stopped: list[str] = []
    end = scheduler.switch.subscribe(stopped.append)
    scheduler.switch.disable("the user said no")
    assert stopped == ["the user said no"]
    end()
    with Database(path) as database:
        later = open_scheduler(database=database)
        assert later.run_due() == ()
        decision = later.decide()
        assert (decision.due, decision.next_attempt) == (False, None)
        assert "the user said no" in str(decision.reasons[0])
    scheduler.switch.disable("again")
    assert stopped == ["the user said no"]
    scheduler.switch.enable()
    assert scheduler.switch.reason is None
    assert len(scheduler.run_due()) == 1
    assert device.asked == [None]


@pytest.mark.parametrize("reason", ["", "x" * 201])
def test_a_reason_for_switching_off_is_short_and_there(open_scheduler, reason) -> None:
    """It ends up in a sentence for the user."""
    with pytest.raises(ValueError, match="1 to 200"):
        open_scheduler().switch.disable(reason)


def test_a_task_s_name_is_checked(open_scheduler) -> None:
    """Names that no task can have are refused before anything is run."""
    with pytest.raises(ValueError, match="task"):
        open_scheduler(tasks=("*",)).decide()


def test_a_thread_runs_what_is_due_until_it_is_told_to_stop(open_scheduler, device) -> None:
    """The loop runs a session, waits for the next one, and ends within a moment of the event."""
    stop, ran = threading.Event(), threading.Event()
    device.during = ran.set
    scheduler = open_scheduler()
    thread = threading.Thread(target=scheduler.run_until, args=(stop,))
    thread.start()
    assert ran.wait(10)
    stop.set()
    thread.join(10)
    assert not thread.is_alive()
    assert device.asked == [None]


STATUSES = ["no_round", "not_sampled", "completed", "failed", "turned_away", "ineligible"]


@settings(max_examples=50, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(STATUSES),
            st.sampled_from(["unreachable", "tls", "round_closed", "conditions_or_budget"]),
            st.none() | st.floats(0, 1e7),
            st.floats(-1e5, 1e5),
        ),
        max_size=25,
    )
)
def test_no_task_waits_longer_than_it_was_told(tmp_path_factory, steps) -> None:
    """However the clock jumps, the next try is never further away than the longest wait given."""
    clock, device = Clock(), ScriptedDevice()
    path = tmp_path_factory.mktemp("device") / "device.db"
    with Database(path, durable=False) as database:
        scheduler = Scheduler(device, database=database, tasks=("a", "b"), clock=clock)
        longest = 0.0
        for status, code, retry_after, jump in steps:
            made = outcome(status, code, retry_after=retry_after)
            device.answers = {"a": made, "b": made}
            scheduler.run_due()
            longest = max(longest, 1.2 * 14_400, (retry_after or 0.0) + 900)
            clock.now += jump
            assert clock.now <= scheduler.next_attempt <= clock.now + longest
