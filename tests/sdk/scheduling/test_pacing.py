"""Waits: what the server asks for is obeyed, what it does not say has a default, all are spread."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pocketfl.scheduling import Pacing, judge

from .conftest import outcome

DRAW = random.Random(7).uniform


def drawn(*arguments: object, **details: object) -> list[float]:
    made = outcome(*arguments, **details)
    return [judge(made, pacing=Pacing(), uniform=DRAW).seconds for _ in range(400)]


@pytest.mark.parametrize(
    ("status", "code"),
    [
        ("failed", "unreachable"),
        ("failed", "lease_expired"),
        ("failed", "store"),
        ("interrupted", "stopped"),
        ("ineligible", "too_few_examples"),
        ("turned_away", "round_closed"),
        ("no_round", "no_round"),
        ("not_sampled", "tails"),
        ("completed", "reported"),
    ],
)
def test_what_may_pass_is_tried_again_after_a_quarter_of_an_hour(status, code) -> None:
    """15 minutes, give or take 20 per cent, and spread over all of that."""
    waits = drawn(status, code)
    assert 720 <= min(waits) < 735
    assert 1065 < max(waits) <= 1080


@pytest.mark.parametrize(
    ("status", "code"),
    [
        ("failed", "plan_signature"),
        ("failed", "aggregator_refused"),
        ("failed", "training"),
        ("failed", "a code that nobody has heard of"),
        ("failed", "not_enrolled"),
        ("ineligible", "plan_unsupported"),
        ("ineligible", "runtime_unavailable"),
        ("cap_reached", "cap_reached"),
    ],
)
def test_what_time_does_not_mend_is_left_alone_for_hours(status, code) -> None:
    """4 hours, give or take 20 per cent; what is unknown is not hammered."""
    waits = drawn(status, code)
    assert min(waits) >= 0.8 * 14_400
    assert max(waits) <= 1.2 * 14_400


def test_a_window_that_the_device_drew_from_is_taken_as_it_is() -> None:
    """The server's window is neither left early nor late."""
    assert set(drawn("turned_away", "round_closed", retry_after=4321.0)) == {4321.0}


def test_a_time_that_is_the_same_for_everybody_is_spread() -> None:
    """Retry-After is a least wait; the jitter comes on top."""
    waits = drawn("failed", "busy", retry_after=100.0)
    assert 100.0 <= min(waits) < 101
    assert 119 < max(waits) <= 120.0


@given(st.floats(), st.sampled_from(["turned_away", "failed", "ineligible", "no_round"]))
def test_no_answer_puts_a_device_off_for_ever_or_for_no_time(asked, status) -> None:
    """Whatever a server says, the wait is finite, not negative, and about 30 days at most."""
    delay = judge(outcome(status, "paused", retry_after=asked), pacing=Pacing(), uniform=DRAW)
    assert math.isfinite(delay.seconds)
    assert 0.0 <= delay.seconds <= Pacing().longest + Pacing().transient


@pytest.mark.parametrize(
    ("code", "task", "everything"),
    [
        ("unreachable", "clicks", True),
        ("tls", None, True),
        ("fleet_paused", None, True),
        ("paused", None, False),
        ("round_closed", "clicks", False),
        ("plan_signature", "clicks", False),
    ],
)
def test_what_concerns_the_whole_server_concerns_all_tasks(code, task, everything) -> None:
    """An unreachable server is not asked again for the next task."""
    made = outcome("failed", code, task=task)
    assert judge(made, pacing=Pacing(), uniform=DRAW).everything is everything


def test_a_session_that_may_go_on_is_not_left_for_hours() -> None:
    """Its lease runs, so whatever interrupted it, the next try comes soon."""
    assert max(drawn("failed", "no code that is known", resumable=True)) <= 1080


def test_only_a_server_s_own_word_is_binding() -> None:
    """What the device estimates about itself may be cut short; see Scheduler.retry_now."""
    of_server = outcome("turned_away", "round_closed", retry_after=60.0)
    of_device = outcome("ineligible", "conditions_or_budget", retry_after=60.0)
    assert judge(of_server, pacing=Pacing(), uniform=DRAW).verdict == "told"
    assert judge(of_device, pacing=Pacing(), uniform=DRAW).verdict == "transient"


@pytest.mark.parametrize(
    "changes", [{"transient": 0.0}, {"poll": float("nan")}, {"jitter": 0.6}, {"longest": 1e9}]
)
def test_impossible_pacing_is_refused(changes) -> None:
    """The message names the field."""
    with pytest.raises(ValueError, match=next(iter(changes))):
        Pacing(**changes)
