"""Conditions, budgets, the ledger, switches and pauses around real sessions on a real store."""

from __future__ import annotations

import dataclasses
import gc
from dataclasses import replace
from functools import partial

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from pocketfl.budgets import Amounts, Budgets, Limits, Meter
from pocketfl.conditions import ConditionSpec, HourWindow, Thermal
from pocketfl.database import Database
from pocketfl.device import SessionHooks, admission, contribution, guardrails
from pocketfl.errors import TransportError
from pocketfl.protocol import Pause
from pocketfl.receipts import Receipts
from pocketfl.runtimes.onnx import _Session
from pocketfl.scheduling.switch import KillSwitch
from pocketfl.store import ExampleStore
from pocketfl.training import CheckpointPolicy

from .conftest import COLLECTION, DAY, GOOD, HOUR, NOW, Clock, Phone, make_plan, unreachable

EVERY_BATCH = CheckpointPolicy(every_seconds=0.0, bytes_per_second=1e12)
STEPS = 10


class Crash(BaseException):
    """The process ends here."""


class Batches(SessionHooks):
    """Does something before a batch, counted over all sessions; every look takes some seconds."""

    def __init__(self, clock: Clock | None = None, **at) -> None:
        self.clock = clock
        self.count = 0
        self.at = {int(name.removeprefix("batch_")): act for name, act in at.items()}

    def should_stop(self) -> bool:
        self.count += 1
        if self.clock is not None:
            self.clock.now += 3.0
        if self.count in self.at:
            self.at[self.count]()
        return False


class Usage:
    """What the sessions of a test really cost; stands in for the clocks of a meter."""

    def __init__(self) -> None:
        self.cpu_seconds = 0.0

    def meter(self) -> Meter:
        usage, began = self, self.cpu_seconds

        class Scripted(Meter):
            def read(self, *, thorough: bool = False) -> Amounts:
                return Amounts(cpu_seconds=usage.cpu_seconds - began)

        return Scripted()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def phone() -> Phone:
    return Phone()


@pytest.fixture
def updates(monkeypatch) -> list[np.ndarray]:
    """What goes into reports, neither clipped nor rounded."""
    kept: list[np.ndarray] = []
    plain = contribution.make_report

    def make_report(update, **settings):
        kept.append(update.copy())
        return plain(update, **settings)

    monkeypatch.setattr(contribution, "make_report", make_report)
    return kept


@pytest.fixture
def undisturbed(make_device, tmp_path, store, updates) -> bytes:
    """The update of a device with the same examples that nothing interrupts."""
    with ExampleStore(tmp_path / "twin.db") as twin:
        twin.create_collection(COLLECTION)
        columns = store.select("trips", limit=100, seed=0).columns
        rows = [
            dict(zip(columns, values, strict=True))
            for values in zip(*columns.values(), strict=True)
        ]
        twin.append("trips", rows, times=[NOW - 1000 + i for i in range(20)])
        assert make_device(store=twin, signals=Phone()).run_once().status == "completed"
    return updates.pop().tobytes()


def count(store, table: str, where: str = "1") -> int:
    if not store.database.query("SELECT 1 FROM sqlite_schema WHERE name = ?", (table,)):
        return 0
    return store.database.query(f"SELECT count(*) FROM {table} WHERE {where}")[0][0]


def ledger_outcomes(store) -> list[str]:
    return [row[0] for row in store.database.query("SELECT outcome FROM ledger_entries")]


def only(**changes) -> ConditionSpec:
    return replace(ConditionSpec.none(), **changes)


def elsewhere(hour: float) -> HourWindow:
    """Two hours of the day that begin an hour after the given one."""
    return HourWindow(start=(hour + 1) % 24, end=(hour + 3) % 24 or 24)


# Before the coin.

BREACHES = {
    "battery": (only(min_battery_level=0.5), {"battery_level": 0.24}),
    "charger": (only(require_charging=True), {"charging": False}),
    "heat": (only(max_thermal="light"), {"thermal": Thermal.MODERATE}),
    "network": (only(require_unmetered=True), {"metered": True}),
    "use": (only(require_idle=True), {"idle": False}),
    "power save": (only(refuse_power_save=True), {"power_save": True}),
    "storage": (only(min_free_storage_bytes=2**30), {"free_storage_bytes": 2**29}),
    "memory": (only(min_free_memory_bytes=2**30), {"free_memory_bytes": 2**29}),
}


@pytest.mark.parametrize("who", ["plan", "app"])
@pytest.mark.parametrize("name", BREACHES)
def test_a_condition_of_either_refuses_before_the_coin(
    make_device, back_end, store, signing_key, name, who
) -> None:
    """Nothing is recorded nor said to the server, and a wait is stated; met, the round is taken."""
    spec, state = BREACHES[name]
    other = ConditionSpec.none()
    plan = make_plan(signing_key, conditions=spec if who == "plan" else other)
    back_end.announce(plan)
    phone = Phone(**state)
    device = make_device(signals=phone, conditions=spec if who == "app" else other)
    outcome = device.run_once()
    assert (outcome.status, outcome.code) == ("ineligible", "conditions")
    assert outcome.retry_after > 0
    assert count(store, "participations") == 0
    assert "check_in" not in back_end.calls
    phone.signals = GOOD
    assert device.run_once().status == "completed"


@pytest.mark.parametrize("who", ["plan", "app"])
def test_a_window_of_either_refuses(make_device, back_end, signing_key, who) -> None:
    """Outside the hours the wait is the one until they begin, at most."""
    import time

    local = time.localtime(NOW)
    spec = only(windows=(elsewhere(local.tm_hour + local.tm_min / 60),))
    other = ConditionSpec.none()
    back_end.announce(make_plan(signing_key, conditions=spec if who == "plan" else other))
    outcome = make_device(signals=Phone(), conditions=spec if who == "app" else other).run_once()
    assert (outcome.status, outcome.code) == ("ineligible", "conditions")
    assert HOUR - 60 <= outcome.retry_after <= 2 * HOUR


BUDGETS = {
    "contributions": Budgets(per_day=Limits(contributions=0)),
    "bytes": Budgets(per_round=Limits(bytes_up=5000)),
    "processor": Budgets(per_day=Limits(cpu_seconds=0.2)),
    "time": Budgets(per_month=Limits(wall_seconds=0.5)),
    "energy": Budgets(per_round=Limits(joules=0.01)),
    "task": Budgets(max_contributions_per_task=0),
    "epsilon": Budgets(max_epsilon_per_year=0.01),
}


@pytest.mark.parametrize("who", ["plan", "app"])
@pytest.mark.parametrize("name", BUDGETS)
def test_a_budget_of_either_refuses_before_the_coin(
    make_device, back_end, store, signing_key, name, who
) -> None:
    """A wider budget of the other changes nothing; nothing is recorded nor said to the server."""
    wide = Budgets(per_day=Limits(contributions=1000, cpu_seconds=7200))
    back_end.announce(make_plan(signing_key, budgets=BUDGETS[name] if who == "plan" else wide))
    device = make_device(signals=Phone(), budgets=BUDGETS[name] if who == "app" else wide)
    outcome = device.run_once()
    assert (outcome.status, outcome.code) == ("ineligible", "budget")
    assert count(store, "participations") == 0
    assert "check_in" not in back_end.calls


def test_a_used_up_day_is_over_after_a_day(make_device, back_end, store, clock) -> None:
    """The wait is the time until the last contribution leaves the window, and then it suffices."""
    device = make_device(
        signals=Phone(), clock=clock, budgets=Budgets(per_day=Limits(contributions=1))
    )
    assert device.run_once().status == "completed"
    back_end.round, back_end.closes_at, back_end.lease_seconds = 2, NOW + 10 * DAY, 10 * DAY
    clock.now += HOUR
    outcome = device.run_once()
    assert (outcome.status, outcome.code) == ("ineligible", "budget")
    assert outcome.retry_after == pytest.approx(23 * HOUR, abs=1)
    assert count(store, "participations") == 1
    clock.now += outcome.retry_after + 1
    assert device.run_once().status == "completed"
    assert ledger_outcomes(store) == ["sent", "sent"]


def test_least_time_between_contributions(make_device, back_end, clock, signing_key) -> None:
    """The longer of the app's and the plan's holds."""
    back_end.announce(make_plan(signing_key, budgets=Budgets(min_separation_seconds=2 * HOUR)))
    device = make_device(signals=Phone(), clock=clock, budgets=Budgets(min_separation_seconds=HOUR))
    back_end.closes_at, back_end.lease_seconds = NOW + DAY, DAY
    assert device.run_once().status == "completed"
    back_end.round = 2
    clock.now += 1.5 * HOUR
    outcome = device.run_once()
    assert (outcome.code, outcome.retry_after) == ("budget", pytest.approx(HOUR / 2, abs=1))
    clock.now += HOUR
    assert device.run_once().status == "completed"


def test_heads_of_yesterday_do_not_excuse_todays_conditions(
    make_device, back_end, phone, store
) -> None:
    """A run that got no place has tossed; the next one looks at the device again all the same."""
    back_end.failures["check_in"] = unreachable()
    device = make_device(signals=phone)
    assert device.run_once().code == "unreachable"
    assert count(store, "participations", "state = 'tossed'") == 1
    back_end.failures.clear()
    phone.signals = replace(GOOD, battery_level=0.1)
    assert device.run_once().code == "conditions"
    assert count(store, "sessions") == 0
    phone.signals = GOOD
    assert device.run_once().status == "completed"


def test_an_app_beyond_the_hard_bounds_is_told_at_once(make_device) -> None:
    """Such a budget is a mistake of the app, and named when the device is made."""
    with pytest.raises(ValueError, match=r"per_day\.cpu_seconds"):
        make_device(budgets=Budgets(per_day=Limits(cpu_seconds=1e6)))


def test_a_provider_that_raises_is_a_reason(make_device, phone, back_end) -> None:
    """An app's broken provider keeps the device from training, and never takes the app down."""
    phone.signals = RuntimeError("sensor")
    outcome = make_device(signals=phone).run_once()
    assert (outcome.status, outcome.code) == ("ineligible", "conditions")
    assert "sensor" in outcome.reason


def test_a_provider_that_raises_in_mid_session_is_survived(
    make_device, phone, clock, undisturbed, updates
) -> None:
    """The session stops at the next batch and goes on later, bytes counted as metered meanwhile."""

    def fail() -> None:
        phone.signals = RuntimeError("sensor")

    device = make_device(signals=phone, clock=clock, hooks=Batches(clock, batch_4=fail))
    outcome = device.run_once()
    assert (outcome.status, outcome.resumable) == ("interrupted", True)
    assert "sensor" in outcome.reason
    phone.signals = GOOD
    assert device.run_once().status == "completed"
    assert updates[0].tobytes() == undisturbed


# During a session.


@pytest.mark.parametrize("name", BREACHES)
def test_a_condition_that_breaks_stops_and_resumes_bit_for_bit(
    make_device, back_end, phone, clock, signing_key, undisturbed, updates, name
) -> None:
    """It ends before the next batch, says why and for how long, and ends as if never stopped."""
    spec, state = BREACHES[name]

    def breach() -> None:
        phone.signals = replace(GOOD, **state)

    hooks = Batches(clock, batch_5=breach)
    device = make_device(signals=phone, clock=clock, conditions=spec, hooks=hooks)
    outcome = device.run_once()
    assert (outcome.status, outcome.code, outcome.resumable) == ("interrupted", "stopped", True)
    assert 0 < outcome.steps < STEPS
    assert hooks.count == 5
    assert outcome.retry_after > 0
    assert device.explain(file=None).reasons[0].observed in outcome.reason
    # While it lasts, a later run does not begin again, nor does it count as a try.
    calls = list(back_end.calls)
    again = device.run_once()
    assert (again.status, again.code, again.resumable) == ("ineligible", "conditions", True)
    assert back_end.calls == calls
    phone.signals = GOOD
    final = device.run_once()
    assert (final.status, final.resumed, final.steps) == ("completed", True, STEPS)
    assert updates[0].tobytes() == undisturbed


def test_the_plans_condition_stops_a_resumed_upload(make_device, back_end, phone) -> None:
    """A sealed report waits for an unmetered network, too, as the plan asked."""
    back_end.failures["upload"] = unreachable()
    device = make_device(signals=phone)
    assert device.run_once().resumable
    back_end.failures.clear()
    phone.signals = replace(GOOD, metered=True)
    outcome = device.run_once()
    assert (outcome.code, outcome.resumable) == ("conditions", True)
    assert back_end.calls.count("upload") == 1
    phone.signals = GOOD
    assert device.run_once().status == "completed"


def slow_session() -> onnxruntime.InferenceSession:
    """A chain of matrix products that takes minutes."""
    size, operators = 256, 20_000
    nodes = [helper.make_node("MatMul", ["x", "x"], ["y0"])]
    nodes += [
        helper.make_node("MatMul", [f"y{i}", "x"], [f"y{i + 1}"]) for i in range(operators - 1)
    ]
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [size, size])
        for name in ("x", f"y{operators - 1}")
    ]
    graph = helper.make_graph(nodes, "long", ends[:1], ends[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    assert isinstance(model, onnx.ModelProto)
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = 1
    settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    settings.log_severity_level = 4
    return onnxruntime.InferenceSession(
        model.SerializeToString(), settings, providers=["CPUExecutionProvider"]
    )


def test_a_hard_stop_cancels_a_step_of_minutes(
    make_device, phone, monkeypatch, undisturbed, updates
) -> None:
    """The step is thrown away as a whole, the outcome says why, and the session goes on later."""
    slow, plain, steps = slow_session(), _Session.run, []

    class SlowSession:
        def run_with_iobinding(self, _binding, options):
            slow.run(None, {"x": np.eye(256, dtype=np.float32)}, options)

    def run(self):
        steps.append(self)
        if len(steps) != 4:
            return plain(self)
        phone.signals = replace(GOOD, thermal=Thermal.SEVERE)
        quick, self._session = self._session, SlowSession()
        try:
            return plain(self)
        finally:
            self._session = quick

    monkeypatch.setattr(_Session, "run", run)
    monkeypatch.setattr(
        guardrails, "ConditionWatch", partial(guardrails.ConditionWatch, every_seconds=0.05)
    )
    device = make_device(signals=phone, hard_stop_seconds=0.05)
    outcome = device.run_once()
    assert (outcome.status, outcome.code, outcome.resumable) == ("interrupted", "stopped", True)
    assert "thermal status severe" in outcome.reason
    assert outcome.retry_after > 0
    assert outcome.steps == 3
    phone.signals = GOOD
    assert device.run_once().status == "completed"
    assert updates[0].tobytes() == undisturbed


def test_stop_ends_the_session_at_its_next_batch(make_device, undisturbed, updates) -> None:
    """An app that leaves the foreground stops the session; it goes on another time."""
    hooks = Batches()
    device = make_device(signals=Phone(), hooks=hooks)
    hooks.at[6] = device.stop
    outcome = device.run_once()
    assert (outcome.status, outcome.code, outcome.resumable) == ("interrupted", "stopped", True)
    assert hooks.count == 6
    assert device.run_once().status == "completed"
    assert updates[0].tobytes() == undisturbed


# The kill switch.


def test_the_switch_forbids_everything(make_device, back_end, phone, store) -> None:
    """Off, nothing is asked of the server and nothing is tossed; on, all is as before."""
    device = make_device(signals=phone)
    device.scheduler.switch.disable("the user said no")
    outcome = device.run_once()
    assert (outcome.status, outcome.code, outcome.retry_after) == ("ineligible", "disabled", None)
    assert "the user said no" in outcome.reason
    assert device.run_due() == ()
    assert make_device(signals=phone).run_once().code == "disabled"
    explanation = device.explain()
    assert (explanation.eligible, explanation.next_attempt) == (False, None)
    assert back_end.calls == []
    assert count(store, "participations") == 0
    device.scheduler.switch.enable()
    assert device.run_once().status == "completed"


@pytest.mark.parametrize("whose", ["own", "another process"])
def test_the_switch_stops_a_running_session(
    make_device, phone, store, monkeypatch, undisturbed, updates, whose
) -> None:
    """At the next batch, wherever in the app it was thrown; switched on again, the session goes on."""
    monkeypatch.setattr(admission, "_SWITCH_SECONDS", 0.0)
    hooks = Batches()
    device = make_device(signals=phone, hooks=hooks)

    def disable() -> None:
        if whose == "own":
            device.scheduler.switch.disable("no more")
            return
        with Database(store.database.path) as other:
            KillSwitch(other).disable("no more")

    hooks.at[5] = disable
    outcome = device.run_once()
    assert (outcome.status, outcome.resumable, hooks.count) == ("interrupted", True, 5)
    assert "no more" in outcome.reason
    assert device.run_once().code == "disabled"
    assert device.pending
    device.scheduler.switch.enable()
    assert device.run_once().status == "completed"
    assert updates[0].tobytes() == undisturbed


def test_a_report_is_not_sent_while_switched_off(make_device, back_end, phone) -> None:
    """Switched off between training and upload, no byte leaves the device."""
    back_end.failures["upload"] = unreachable()
    device = make_device(signals=phone)
    assert device.run_once().resumable
    calls = list(back_end.calls)
    back_end.failures.clear()
    device.scheduler.switch.disable("no")
    assert device.run_once().code == "disabled"
    assert back_end.calls == calls


# What the server asks for.


@pytest.mark.parametrize("paused", ["trips", None])
@pytest.mark.parametrize("asked", ["trips", None])
def test_pauses_are_obeyed(make_device, back_end, phone, store, paused, asked) -> None:
    """Even where the round is listed nothing is tossed, and the device keeps away as long as asked."""
    back_end.pauses = (Pause(task=paused, reason="maintenance", min_seconds=60, max_seconds=90),)
    outcome = make_device(signals=phone).run_once(task=asked)
    if asked is None and paused is not None:
        assert outcome.status == "no_round"
    else:
        code = "paused" if paused else "fleet_paused"
        assert (outcome.status, outcome.code) == ("turned_away", code)
        assert 60 <= outcome.retry_after <= 90
        assert "maintenance" in outcome.reason
    assert back_end.calls == ["notices"]
    assert count(store, "participations") == 0


def test_a_paused_task_says_so_while_others_run(make_device, back_end, phone) -> None:
    """Asked for the paused one, the device reports the pause; asked for any, it takes the other."""
    back_end.other_notices = (replace(back_end.notice, task="walks"),)
    back_end.pauses = (Pause(task="trips", reason="x", min_seconds=60, max_seconds=90),)
    device = make_device(signals=phone)
    assert device.run_once(task="trips").code == "paused"
    outcome = device.run_once()
    assert (outcome.status, outcome.task) == ("completed", "walks")


@pytest.mark.parametrize("paused", ["trips", None])
def test_a_waiting_session_obeys_a_pause(
    make_device, back_end, phone, undisturbed, updates, paused
) -> None:
    """It waits on, and goes on bit for bit once the pause is over; another task's pause is not its."""
    hooks = Batches()
    device = make_device(signals=phone, hooks=hooks)
    hooks.at[5] = device.stop
    assert device.run_once().resumable
    back_end.pauses = (Pause(task=paused, reason="x", min_seconds=60, max_seconds=90),)
    outcome = device.run_once()
    assert (outcome.status, outcome.resumable) == ("turned_away", True)
    assert 60 <= outcome.retry_after <= 90
    assert hooks.count == 5
    back_end.pauses = (Pause(task="walks", reason="x", min_seconds=60, max_seconds=90),)
    assert device.run_once().status == "completed"
    assert updates[0].tobytes() == undisturbed


def test_a_session_that_is_held_up_keeps_no_other_task_waiting(
    make_device, back_end, phone
) -> None:
    """Its task is paused, another one's round goes on; then it is heard of again, and goes on."""
    hooks = Batches()
    device = make_device(signals=phone, hooks=hooks)
    hooks.at[5] = device.stop
    assert device.run_once().resumable
    back_end.pauses = (Pause(task="trips", reason="x", min_seconds=60, max_seconds=90),)
    back_end.other_notices = (replace(back_end.notice, task="walks"),)
    outcome = device.run_once()
    assert (outcome.status, outcome.task, outcome.resumed) == ("completed", "walks", False)
    ((pending),) = device.pending
    assert (pending.task, pending.has_report) == ("trips", False)
    outcome = device.run_once()
    assert (outcome.status, outcome.task, outcome.resumable) == ("turned_away", "trips", True)
    back_end.pauses = ()
    outcome = device.run_once()
    assert (outcome.status, outcome.task, outcome.resumed) == ("completed", "trips", True)
    assert device.pending == ()


def test_tasks_take_turns(make_device, back_end, phone, clock) -> None:
    """With new rounds of every task all the time, each gets the same number, whoever calls."""
    back_end.closes_at, back_end.lease_seconds = NOW + 10 * DAY, 10 * DAY
    device = make_device(signals=phone, clock=clock)
    served: list[str] = []
    for number in range(1, 10):
        back_end.round = number
        back_end.other_notices = tuple(
            replace(back_end.notice, task=task) for task in ("walks", "rides")
        )
        clock.now += HOUR
        if number % 2:
            outcome = device.run_once()
        else:
            (outcome,) = device.run_due()
        assert outcome.status == "completed"
        served.append(outcome.task)
    assert {task: served.count(task) for task in set(served)} == {
        "trips": 3,
        "walks": 3,
        "rides": 3,
    }
    for start in range(0, 9, 3):
        assert len(set(served[start : start + 3])) == 3


# The account.


@pytest.mark.parametrize(
    ("status", "code", "outcome", "receipt"),
    [
        (None, None, "sent", "accepted"),
        (409, "other_report_for_lease", "sent", "accepted"),
        (410, "round_closed", "sent", "rejected"),
        (422, "wrong_length", "sent", "rejected"),
    ],
)
def test_verdicts_settle_account_and_receipt(
    make_device, back_end, phone, store, status, code, outcome, receipt
) -> None:
    """The bytes were with the server, so they count whatever it said about them."""
    if status is not None:
        back_end.failures["upload"] = TransportError("no", status=status, code=code)
    device = make_device(signals=phone)
    device.run_once()
    assert ledger_outcomes(store) == [outcome]
    assert device.ledger.unsettled() == ()
    assert device.ledger.used(seconds=DAY).contributions == 1
    assert device.receipts.find(task="trips", round=1).outcome == receipt


def test_an_abandoned_session_frees_its_contribution(
    make_device, back_end, phone, store, clock
) -> None:
    """Nothing was sent: neither contribution nor epsilon count, and there is no receipt."""
    hooks = Batches()
    device = make_device(
        signals=phone,
        clock=clock,
        hooks=hooks,
        budgets=Budgets(per_day=Limits(contributions=1)),
    )
    hooks.at[4] = device.stop
    assert device.run_once().resumable
    assert device.ledger.used(seconds=DAY).contributions == 1
    clock.now += 601
    back_end.round, back_end.closes_at, back_end.lease_seconds = 2, NOW + 2000, 2000
    assert device.run_once().status == "completed"
    assert ledger_outcomes(store) == ["unsent", "sent"]
    assert device.receipts.find(task="trips", round=1) is None


@pytest.mark.parametrize("days", [7, 60])
def test_a_report_that_nobody_answers_for_is_unknown_and_counts(
    make_device, back_end, phone, store, days
) -> None:
    """However late the device comes back, the session comes to its end and frees the way."""
    back_end.failures["upload"] = unreachable()
    make_device(signals=phone).run_once()
    clock = Clock()
    device = make_device(signals=phone, clock=clock)
    # A day at a time, as the ledger believes no clock more than that.
    for _ in range(days):
        clock.now += DAY
        device.ledger.check(task="x", round=1, needs=Amounts(), budgets=Budgets())
    clock.now += 700
    phone.signals = replace(GOOD, battery_level=0.01)
    outcome = device.run_once()
    assert (outcome.status, outcome.resumable) == ("failed", False)
    assert ledger_outcomes(store) == ["unknown"]
    assert device.receipts.find(task="trips", round=1).outcome == "unknown"
    assert device.pending == ()


@pytest.mark.parametrize("place", ["began", "checkpointed", "prepared", "settled"])
def test_a_crash_between_reserve_and_settle_is_taken_up(
    make_device, back_end, store, place, undisturbed, updates
) -> None:
    """A new device on the same store goes on under the same reservation, charged for the crash."""

    class Crashing(SessionHooks):
        pass

    def crash(self, *_arguments, **_settings) -> None:
        raise Crash

    setattr(Crashing, place, crash)
    dropped = make_device(signals=Phone(), hooks=Crashing(), checkpoints=EVERY_BATCH)
    with pytest.raises(Crash):
        dropped.run_once()
    del dropped
    gc.collect()
    device = make_device(signals=Phone())
    open_before = device.ledger.unsettled()
    # At the very beginning not even the lease was written down.
    assert len(open_before) == (place != "began")
    assert device.run_once().status == "completed"
    assert ledger_outcomes(store) == ["sent"]
    used = device.ledger.used(seconds=DAY)
    assert used.contributions == 1
    if open_before:
        assert count(store, "ledger_entries", "crashes = 1") == 1
        assert used.cpu_seconds >= open_before[0].stride.cpu_seconds
    assert {update.tobytes() for update in updates} == {undisturbed}


@pytest.mark.parametrize("who", ["plan", "app"])
@pytest.mark.parametrize("crash_every", [None, 1, 2, 3])
def test_no_crash_lets_a_round_overspend(
    make_device, back_end, signing_key, store, who, crash_every
) -> None:
    """However often the process dies, the round costs no more than its budget and one batch."""
    # A batch of a second takes no more than a processor's second, whatever the machine.
    batch, most = 1.0, 7.0
    budgets = Budgets(per_round=Limits(cpu_seconds=most))
    wide = Budgets()
    back_end.announce(make_plan(signing_key, budgets=budgets if who == "plan" else wide))
    usage = Usage()

    class Costly(SessionHooks):
        def __init__(self) -> None:
            self.trained = 0

        def checkpointed(self, session, *, spent) -> None:
            usage.cpu_seconds += batch
            self.trained += 1
            if self.trained == crash_every:
                raise Crash

    ends = []
    for _ in range(20):
        device = make_device(
            signals=Phone(),
            hooks=Costly(),
            checkpoints=EVERY_BATCH,
            meter=usage.meter,
            budgets=budgets if who == "app" else wide,
        )
        try:
            ends.append(device.run_once().code)
        except Crash:
            ends.append("crash")
    assert 0 < usage.cpu_seconds <= most + batch
    assert "reported" not in ends
    assert "budget" in ends
    ((held,),) = store.database.query("SELECT held_cpu_seconds FROM ledger_entries")
    assert held >= usage.cpu_seconds - batch


def test_pauses_in_order_cost_nothing_extra(make_device, store) -> None:
    """Stopped and resumed by ten processes, a round is charged what it used and no strides."""
    usage = Usage()
    budgets = Budgets(per_round=Limits(cpu_seconds=40.0))
    for _ in range(8):
        hooks = Batches()
        device = make_device(
            signals=Phone(),
            hooks=hooks,
            budgets=budgets,
            meter=usage.meter,
            checkpoints=EVERY_BATCH,
        )

        def work(device=device) -> None:
            usage.cpu_seconds += 1.0
            device.stop()

        hooks.at[4] = work
        outcome = device.run_once()
        assert outcome.code in ("stopped", "reported"), outcome.reason
        if outcome.status == "completed":
            break
    assert outcome.status == "completed"
    ((spent,),) = store.database.query("SELECT spent_cpu_seconds FROM ledger_entries")
    assert spent == pytest.approx(usage.cpu_seconds)


def test_memory_of_an_earlier_run_does_not_shrink_the_budget(make_device, store) -> None:
    """The most memory is a level: what an earlier run needed is there for the next one again."""

    class Heavy(Meter):
        def read(self, *, thorough: bool = False) -> Amounts:
            return Amounts(peak_memory_bytes=200 * 2**20)

    hooks = Batches()
    budgets = Budgets(per_round=Limits(peak_memory_bytes=256 * 2**20))
    device = make_device(signals=Phone(), meter=Heavy, hooks=hooks, budgets=budgets)
    hooks.at[4] = device.stop
    assert device.run_once().resumable
    ((granted,),) = store.database.query("SELECT granted_peak_memory_bytes FROM ledger_entries")
    assert device.run_once().status == "completed"
    assert store.database.query("SELECT granted_peak_memory_bytes FROM ledger_entries") == [
        (granted,)
    ]


def test_a_round_whose_own_budget_is_used_up_ends_at_once(make_device, back_end, store) -> None:
    """No time makes room in it, so its lease does not keep the device from the next round."""

    class Slow(Meter):
        """Says that every batch took ten seconds of the processor."""

        def read(self, *, thorough: bool = False) -> Amounts:
            self.reads = getattr(self, "reads", 0) + 1
            return Amounts(cpu_seconds=10.0 * self.reads)

    budgets = Budgets(per_round=Limits(cpu_seconds=30.0))
    stopped = make_device(signals=Phone(), meter=Slow, budgets=budgets).run_once()
    assert (stopped.status, stopped.code) == ("interrupted", "stopped")
    ended = make_device(signals=Phone(), budgets=budgets).run_once()
    assert (ended.status, ended.code, ended.resumable) == ("failed", "budget", False)
    assert "CPU seconds in this round" in ended.reason
    assert ledger_outcomes(store) == ["unsent"]
    back_end.round = 2
    assert make_device(signals=Phone(), budgets=budgets).run_once().status == "completed"


# Receipts.


@pytest.mark.parametrize("method", ["prepare", "settle"])
def test_receipts_share_the_transaction_of_the_step(
    make_device, back_end, phone, store, monkeypatch, method
) -> None:
    """A process that ends right after the line was written leaves neither line nor step."""
    plain = getattr(Receipts, method)

    def crash(self, *arguments, **settings):
        plain(self, *arguments, **settings)
        raise Crash

    with monkeypatch.context() as patch:
        patch.setattr(Receipts, method, crash)
        with pytest.raises(Crash):
            make_device(signals=phone).run_once()
    if method == "prepare":
        assert count(store, "receipts") == 0
        assert count(store, "sessions", "report IS NOT NULL") == 0
        assert back_end.reports == {}
    else:
        assert count(store, "receipts", "outcome = 'prepared'") == 1
        assert count(store, "sessions", "report IS NOT NULL") == 1
        assert count(store, "ledger_entries", "outcome = 'open'") == 1
    device = make_device(signals=phone)
    assert device.run_once().status == "completed"
    (receipt,) = device.receipts.audit().receipts
    assert receipt.outcome == "accepted"
    assert count(store, "sessions") == 0
    assert ledger_outcomes(store) == ["sent"]


def test_a_receipt_says_what_the_plan_protects(make_device, phone, plan) -> None:
    """Clip norm, noise, floor and epsilon are those of the verified plan and the ledger."""
    device = make_device(signals=phone)
    device.run_once()
    (receipt,) = device.receipts.audit().receipts
    aggregation = plan.manifest.aggregation
    assert (receipt.clip_norm, receipt.cohort_floor) == (
        aggregation.clip_norm,
        aggregation.cohort_floor,
    )
    assert receipt.noise_multiplier == plan.manifest.dp.noise_multiplier
    assert receipt.plan_sha256 == plan.sha256
    spent = device.ledger.privacy(delta=receipt.delta)
    assert receipt.epsilon == receipt.epsilon_so_far == pytest.approx(spent.epsilon)


def test_outcomes_of_refusals_are_plain_values(make_device, phone) -> None:
    """An app can log or store them."""
    phone.signals = replace(GOOD, battery_level=0.1)
    outcome = dataclasses.asdict(make_device(signals=phone).run_once())
    assert outcome["code"] == "conditions"
