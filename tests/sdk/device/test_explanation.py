"""Why a device does not train now, in words and as values, with and without server and plan."""

from __future__ import annotations

import io
from dataclasses import replace
from functools import partial

import pytest

from pocketfl.budgets import Budgets, Limits
from pocketfl.conditions import ConditionSpec, Thermal
from pocketfl.device import DeviceLimits
from pocketfl.device.explanation import explain
from pocketfl.reasons import Reason

from .conftest import DAY, HOUR, NOW, Clock, make_plan, unreachable
from .conftest import GOOD as PLUGGED_IN
from .conftest import Phone as AnyPhone

GOOD = replace(PLUGGED_IN, charging=False)
Phone = partial(AnyPhone, charging=False)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def offline(back_end):
    """Every request fails."""
    for name in ("notices", "plan", "parameters", "check_in", "upload"):
        back_end.failures[name] = unreachable()
    return back_end


def test_before_any_plan_and_without_a_network(make_device, offline, capsys) -> None:
    """The app's own conditions are known all the time; the text is what the issue of it asked for."""
    device = make_device(signals=Phone(battery_level=0.24), conditions=ConditionSpec())
    explanation = device.explain()
    text = "skipped: battery 24 % < 30 %; next try in 5-7 h"
    assert str(explanation) == text
    assert capsys.readouterr().out == text + "\n"
    assert not explanation.eligible
    (reason,) = explanation.reasons
    assert (reason.condition, reason.observed, reason.required) == ("battery", "24 %", ">= 30 %")
    assert explanation.next_attempt == NOW + 5 * HOUR
    assert offline.calls == []


def test_nothing_against_it(make_device, offline) -> None:
    """Ready is said, too, and into the file that the app names."""
    file = io.StringIO()
    explanation = make_device(signals=Phone()).explain(file=file)
    assert explanation.eligible
    assert explanation.reasons == ()
    assert explanation.next_attempt == NOW
    assert file.getvalue().startswith("ready")


def test_the_plan_that_is_known_counts(make_device, back_end, store) -> None:
    """Once a round has brought it, its conditions are explained offline, by a new process too."""
    phone = Phone()
    assert make_device(signals=phone).run_once().status == "completed"
    back_end.calls.clear()
    phone.signals = replace(GOOD, metered=True, battery_level=0.1)
    explanation = make_device(signals=phone).explain()
    assert [reason.condition for reason in explanation.reasons] == ["battery", "network"]
    assert back_end.calls == []


def test_it_changes_nothing(make_device, store) -> None:
    """Asked ever so often, nothing is tossed, reserved, refused on record, or begun."""
    device = make_device(signals=Phone(battery_level=0.1), conditions=ConditionSpec())
    device.explain()
    before = list(store.database._connection.iterdump())
    for _ in range(3):
        device.explain()
    assert list(store.database._connection.iterdump()) == before
    assert store.database.query("SELECT * FROM participations") == []
    assert device.ledger.refusals() == ()


def test_what_explain_says_is_what_run_once_does(make_device, back_end, clock) -> None:
    """The reasons of a refusal are those of the explanation, for conditions and for budgets."""
    phone = Phone()
    device = make_device(
        signals=phone, clock=clock, budgets=Budgets(per_day=Limits(contributions=1))
    )
    assert device.run_once().status == "completed"
    back_end.round, back_end.closes_at, back_end.lease_seconds = 2, NOW + 9 * DAY, 9 * DAY
    clock.now += HOUR
    explanation = device.explain()
    outcome = device.run_once()
    assert outcome.code == "budget"
    assert outcome.reason == "; ".join(map(str, explanation.reasons))
    assert explanation.next_attempt == pytest.approx(clock.now + outcome.retry_after)
    clock.now += DAY
    assert device.explain().eligible
    phone.signals = replace(GOOD, thermal=Thermal.MODERATE)
    explanation = device.explain()
    assert device.run_once().reason == "; ".join(map(str, explanation.reasons))
    assert "thermal status moderate" in str(explanation)


def test_every_reason_is_named(make_device) -> None:
    """Condition and budget are listed together; the longest wait decides."""
    device = make_device(
        signals=Phone(battery_level=0.24, thermal=Thermal.MODERATE),
        conditions=ConditionSpec(),
        budgets=Budgets(per_day=Limits(contributions=0)),
    )
    explanation = device.explain()
    assert [reason.condition for reason in explanation.reasons] == [
        "battery",
        "thermal status",
        "contributions in 24 hours",
    ]
    # No contribution a day is a limit that no time mends.
    assert explanation.next_attempt is None
    assert str(explanation).endswith("no next try until that changes")


def test_the_schedule_is_a_reason(make_device, back_end, clock) -> None:
    """After a try the device waits, and says for how much longer."""
    device = make_device(signals=Phone(), clock=clock)
    (outcome,) = device.run_due()
    assert outcome.status == "completed"
    explanation = device.explain()
    (reason,) = explanation.reasons
    assert reason.condition == "schedule"
    assert NOW + 700 < explanation.next_attempt < NOW + 1100
    assert explanation.next_attempt == pytest.approx(device.scheduler.next_attempt)
    clock.now = explanation.next_attempt + 1
    assert device.explain().eligible


def test_a_short_condition_does_not_hide_a_long_schedule(make_device, clock) -> None:
    """The next try is when both are over."""
    phone = Phone()
    device = make_device(signals=phone, clock=clock, conditions=ConditionSpec())
    device.run_due()
    phone.signals = replace(GOOD, thermal=Thermal.MODERATE)
    explanation = device.explain()
    assert len(explanation.reasons) == 2
    assert explanation.next_attempt == pytest.approx(
        max(NOW + 15 * 60, device.scheduler.next_attempt)
    )


def test_a_waiting_session_is_explained_by_itself(make_device, back_end) -> None:
    """Its contribution is set aside already: a budget of one a day does not stand against it."""
    phone = Phone()
    budgets = Budgets(per_day=Limits(contributions=1))
    back_end.failures["upload"] = unreachable()
    device = make_device(signals=phone, budgets=budgets)
    assert device.run_once().resumable
    assert device.explain().eligible
    phone.signals = replace(GOOD, metered=True)
    (reason,) = device.explain().reasons
    assert reason.condition == "network"
    (reason,) = device.explain(task="trips").reasons
    assert reason.condition == "network"


def test_a_plan_that_does_not_fit_is_a_reason(make_device, back_end, store, signing_key) -> None:
    """Too few examples, or an app that has become stricter: no state of the device changes that."""
    device = make_device(signals=Phone())
    assert device.run_once().status == "completed"
    stricter = make_device(signals=Phone(), limits=DeviceLimits(max_epsilon=1.0))
    explanation = stricter.explain()
    assert not explanation.eligible
    assert "epsilon is 8, this device's limit is 1" in str(explanation)
    store.delete("trips", ids=store.select("trips", limit=20, seed=0).ids)
    assert "0 examples, the plan needs 1" in str(device.explain())


def test_the_best_of_several_tasks_is_explained(make_device, back_end, signing_key) -> None:
    """With one that may train the device is ready; asked for the other, it says why not."""
    phone = Phone(charging=True)
    device = make_device(signals=phone)
    assert device.run_once().status == "completed"
    back_end.announce(
        make_plan(
            signing_key,
            version="2",
            conditions=replace(ConditionSpec.none(), require_charging=True),
        )
    )
    back_end.task, back_end.round = "walks", 1
    assert device.run_once().status == "completed"
    phone.signals = GOOD
    assert device.explain().eligible
    (reason,) = device.explain(task="walks").reasons
    assert reason.condition == "charging"
    assert device.explain(task="unheard-of").eligible


def test_a_broken_provider_is_explained(make_device) -> None:
    """Nothing is raised: an app asks this to show it to its user."""
    phone = Phone()
    phone.signals = OSError("no sensor")
    (reason,) = make_device(signals=phone, conditions=ConditionSpec()).explain().reasons
    assert "no sensor" in reason.observed


def test_a_plan_that_is_no_longer_trusted_is_survived(make_device, back_end) -> None:
    """A device whose app dropped the modeller's key still explains itself."""
    assert make_device(signals=Phone()).run_once().status == "completed"
    from pocketfl.plan import generate_signing_key, public_key_hex

    device = make_device(signals=Phone(), plan_keys=[public_key_hex(generate_signing_key())])
    assert device.explain().eligible


@pytest.mark.parametrize(
    ("reasons", "scheduled", "window"),
    [
        ([(10, 20)], None, (10, 20)),
        ([(10, 20)], 15.0, (15, 20)),
        ([(10, 20)], 50.0, (50, 50)),
        ([(10, 20), (5, 90)], None, (10, 90)),
        ([(10, 20), None], 5.0, None),
    ],
)
def test_reasons_and_schedule_add_up(reasons, scheduled, window) -> None:
    """The last of the waits counts; a reason that no time mends leaves none."""
    given = tuple(
        Reason(condition="a", observed="b", required="c", retry_seconds=each) for each in reasons
    )
    explanation = explain(given, now=NOW, scheduled=None if scheduled is None else NOW + scheduled)
    assert explanation.window == window
    assert explanation.next_attempt == (None if window is None else NOW + window[0])
