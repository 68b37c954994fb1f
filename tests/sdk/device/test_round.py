"""A whole round on the device: real store, plan and runtime against a back end in memory."""

from __future__ import annotations

import dataclasses
import io
import threading
import zipfile
from hashlib import sha256

import numpy as np
import pytest

from pocketfl.device import Device, DeviceLimits, PlanCache, RoundOutcome
from pocketfl.errors import SealingError, StoreError, TransportError
from pocketfl.plan import AdaptiveClippingSpec, Plan, generate_signing_key, public_key_hex
from pocketfl.protocol import FeaturePage, RetryWindow
from pocketfl.sampling import Participation
from pocketfl.sealing import PinnedAggregator, generate_key_pair
from pocketfl.store import Collection, ExampleStore, Field
from pocketfl.transport import Transport

from .conftest import COLLECTION, NOW, MemoryBackEnd, make_plan, rain, unreachable


def state_of(store, number: int = 1, task: str = "trips") -> str | None:
    rows = store.database.query(
        "SELECT state FROM participations WHERE task = ? AND round = ?", (task, number)
    )
    return rows[0][0] if rows else None


def least_squares(store) -> np.ndarray:
    """Where training would end on this store's examples."""
    examples = store.select("trips", limit=1000, seed=0)
    rows = np.column_stack([np.array(examples.columns["x"]), np.ones(len(examples))])
    targets = np.array(examples.columns["y"])
    return np.linalg.lstsq(rows, targets, rcond=None)[0]


def test_a_round_ends_in_a_report_of_what_was_learnt(make_device, back_end, store, plan) -> None:
    """The opened report points where the data says, within the bound, from the announced start."""
    outcome = make_device().run_once()
    assert (outcome.status, outcome.code) == ("completed", "reported")
    assert (outcome.task, outcome.round, outcome.model_version) == ("trips", 1, 0)
    assert (outcome.steps, outcome.examples) == (10, 20)
    ((lease, _),) = back_end.reports.items()
    update = back_end.open_report(lease, plan)
    solution = least_squares(store)  # training starts from zeros
    assert np.linalg.norm(update) <= plan.manifest.aggregation.clip_norm
    assert np.linalg.norm(update) > 0.4
    cosine = update @ solution / np.linalg.norm(update) / np.linalg.norm(solution)
    assert cosine > 0.9
    assert state_of(store) == "uploaded"


def test_phases_come_in_order_and_say_nothing_before_the_coin(make_device, back_end) -> None:
    """Notices and plan are the same for everybody; the first own word is the enrolment."""
    outcome = make_device().run_once()
    assert back_end.calls == ["notices", "plan", "enrol", "check_in", "parameters", "upload"]
    assert set(outcome.phases) == {
        "notices",
        "plan",
        "eligibility",
        "coin",
        "check_in",
        "parameters",
        "features",
        "select",
        "train",
        "report",
        "upload",
    }
    assert sum(outcome.phases.values()) <= outcome.seconds
    assert 0 < outcome.step_seconds <= outcome.phases["train"]
    assert outcome.overhead_seconds == outcome.seconds - outcome.step_seconds
    assert (outcome.bytes_up, outcome.bytes_down) == (600, 6000)


def test_enrolment_happens_once_per_install(make_device, back_end, store) -> None:
    """The token is kept; key, user and SDK version are what was sent for it."""
    make_device().run_once()
    back_end.round = 2
    make_device(enrolment_key=None).run_once()
    ((key, request),) = back_end.enrolments
    assert key == "enrolment-key-for-tests"
    assert request.user == "u1"
    tokens = {token for token, _ in back_end.check_ins}
    assert tokens == {"device-token-00000001"}
    assert len(back_end.reports) == 2


def test_without_a_user_a_device_enrols_under_a_random_name(
    make_device, back_end, tmp_path
) -> None:
    """An app without server-side features needs no names, and two devices are never one user."""
    for name in ("one", "two"):
        with ExampleStore(tmp_path / f"{name}.db") as store:
            store.create_collection(COLLECTION)
            store.append("trips", [{"x": np.ones(2, np.float32), "place": "JFK", "y": 1.0}])
            assert make_device(store=store, user="").run_once().status == "completed"
    users = [request.user for _, request in back_end.enrolments]
    assert len(set(users)) == 2
    assert all(user.startswith("anonymous-") for user in users)


def test_a_token_that_the_server_forgot_is_replaced(make_device, back_end) -> None:
    """After a 401 the device enrols again at its next try."""
    make_device().run_once()
    back_end.round = 2
    back_end.failures["check_in"] = TransportError(
        "unknown token", status=401, code="unknown_token"
    )
    device = make_device()
    assert device.run_once().code == "unknown_token"
    del back_end.failures["check_in"]
    assert device.run_once().status == "completed"
    assert len(back_end.enrolments) == 2


def test_without_token_or_key_nothing_is_tried(make_device, back_end) -> None:
    """The outcome says what is missing."""
    outcome = make_device(enrolment_key=None).run_once()
    assert (outcome.status, outcome.code) == ("failed", "not_enrolled")
    assert back_end.check_ins == []


def test_the_same_round_is_reported_once(make_device, back_end) -> None:
    """However often it is run, and after a restart, there is one report and one check-in."""
    device = make_device()
    assert device.run_once().status == "completed"
    again = [device.run_once(), make_device().run_once()]
    assert [o.status for o in again] == ["no_round"] * 2
    assert {o.code for o in again} == {"already_reported"}
    assert (len(back_end.reports), len(back_end.check_ins)) == (1, 1)


def test_the_next_round_starts_from_the_new_model(make_device, back_end, plan) -> None:
    """The update is relative to what was downloaded for that round."""
    device = make_device()
    device.run_once()
    back_end.round, back_end.model_version = 2, 1
    solution = np.array([1.0, -2.0, 0.5], dtype="<f4")
    back_end.parameters_data = solution.tobytes()
    outcome = device.run_once()
    assert (outcome.status, outcome.model_version) == ("completed", 1)
    lease = list(back_end.reports)[-1]
    assert np.linalg.norm(back_end.open_report(lease, plan)) < 0.01
    assert outcome.loss == pytest.approx(0, abs=1e-6)


def test_tails_means_silence(make_device, back_end, store, signing_key) -> None:
    """Not sampled: the plan was read, nothing was said, and asking again changes nothing."""
    plan = make_plan(signing_key, sampling_probability=1e-9)
    back_end.announce(plan)
    outcomes = [make_device().run_once() for _ in range(3)]
    assert {o.status for o in outcomes} == {"not_sampled"}
    assert set(back_end.calls) <= {"notices", "plan", "close"}
    assert state_of(store) == "tails"


def test_a_fleet_takes_part_with_the_plans_probability(tmp_path, back_end, signing_key) -> None:
    """Over 150 devices at 0.3, heads are within 5 standard deviations (false alarm 6e-7)."""
    back_end.announce(make_plan(signing_key, sampling_probability=0.3))
    plans = PlanCache()
    statuses = []
    for number in range(150):
        with ExampleStore(tmp_path / f"{number}.db") as store:
            store.create_collection(COLLECTION)
            store.append("trips", [{"x": np.ones(2, np.float32), "place": "JFK", "y": 1.0}])
            device = Device(
                store,
                server=back_end,
                plan_keys=[public_key_hex(signing_key)],
                aggregator=PinnedAggregator(back_end.public_key.hex()),
                enrolment_key="enrolment-key-for-tests",
                plans=plans,
                clock=lambda: NOW,
            )
            statuses.append(device.run_once().status)
    plans.close()
    assert set(statuses) == {"completed", "not_sampled"}
    heads = statuses.count("completed")
    assert abs(heads - 45) < 5 * np.sqrt(150 * 0.3 * 0.7)
    assert len(back_end.reports) == heads


def test_the_cap_holds_whatever_is_announced(make_device, back_end, signing_key) -> None:
    """After the plan's number of participations there are no more, under a new plan either."""
    back_end.announce(make_plan(signing_key, max_participations=2))
    device = make_device()
    statuses = []
    for number in range(1, 5):
        back_end.round = number
        statuses.append(device.run_once().status)
    assert statuses == ["completed", "completed", "cap_reached", "cap_reached"]
    back_end.announce(make_plan(signing_key, max_participations=2, version="2"))
    back_end.round = 5
    assert device.run_once().status == "cap_reached"
    assert len(back_end.check_ins) == 2


def test_a_repacked_plan_under_a_new_task_name_does_not_reset_the_cap(
    make_device, back_end, signing_key
) -> None:
    """The archive's bytes can be changed by anybody; the plan is its signed manifest."""
    plan = make_plan(signing_key, max_participations=1)
    back_end.announce(plan)
    device = make_device()
    assert device.run_once().status == "completed"
    packed = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(plan.data)) as old, zipfile.ZipFile(packed, "w") as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    repacked = Plan.load(packed.getvalue(), trusted_keys=[public_key_hex(signing_key)])
    assert repacked.sha256 != plan.sha256
    back_end.announce(repacked)
    back_end.task = "renamed"
    assert device.run_once().status == "cap_reached"


def test_a_turned_away_device_comes_back_within_the_window(make_device, back_end, store) -> None:
    """The waiting time is the device's own choice between the bounds, and the round stays open."""
    back_end.answer_instead = RetryWindow(reason="round_full", min_seconds=10, max_seconds=20)
    device = make_device()
    waits = {device.run_once().retry_after for _ in range(8)}
    assert all(10 <= wait <= 20 for wait in waits)
    assert len(waits) > 1
    outcome = device.run_once()
    assert (outcome.status, outcome.code) == ("turned_away", "round_full")
    assert state_of(store) == "tossed"
    back_end.answer_instead = None
    assert device.run_once().status == "completed"


def test_no_open_round(make_device, back_end) -> None:
    """Nothing announced, or nothing of the task asked for, or only what is over."""
    device = make_device()
    back_end.has_rounds = False
    assert (device.run_once().status, device.run_once().code) == ("no_round", "no_round")
    back_end.has_rounds = True
    assert device.run_once(task="other").status == "no_round"
    back_end.closes_at = NOW
    outcome = device.run_once()
    assert (outcome.status, outcome.code, outcome.task) == ("no_round", "round_closed", "trips")
    assert back_end.check_ins == []


def test_of_several_rounds_the_first_possible_one_is_taken(make_device, back_end, plan) -> None:
    """Rounds that are over or not for this device do not stand in the way."""
    over = dataclasses.replace(back_end.notice, task="over", closes_at=NOW - 1)
    back_end.other_notices = (over,)
    outcome = make_device().run_once()
    assert (outcome.status, outcome.task) == ("completed", "trips")


def test_of_several_rounds_the_most_telling_end_is_reported(
    make_device, back_end, signing_key
) -> None:
    """A failure is not hidden behind a round that was merely over."""
    over = dataclasses.replace(back_end.notice, task="over", closes_at=NOW - 1)
    back_end.other_notices = (over,)
    back_end.announce(make_plan(generate_signing_key()))
    outcome = make_device().run_once()
    assert (outcome.status, outcome.code, outcome.task) == ("failed", "plan_signature", "trips")


def test_a_device_without_usable_examples_reports_zeros(
    make_device, back_end, tmp_path, signing_key
) -> None:
    """Once the coin said yes, the number of reports does not depend on data."""
    plan = make_plan(signing_key, joins=True)
    back_end.announce(plan)
    back_end.feature_pages = [make_page([rain("nowhere", 0.0, 1.0)])]
    outcome = make_device().run_once()
    assert (outcome.status, outcome.steps, outcome.examples) == ("completed", 0, 0)
    assert outcome.loss is None
    ((lease, _),) = back_end.reports.items()
    assert not back_end.open_report(lease, plan).any()


def make_page(rows, next_cursor=None):
    return FeaturePage(table="weather", rows=tuple(rows), next_cursor=next_cursor)


def test_server_features_are_fetched_stored_and_joined(
    make_device, back_end, store, signing_key
) -> None:
    """All pages are read once, and used as of the examples' own time."""
    plan = make_plan(signing_key, joins=True)
    back_end.announce(plan)
    back_end.feature_pages = [
        make_page([rain("JFK", NOW - 2000, 3.0), rain("JFK", NOW + 1, 9.0)], "7"),
        make_page([rain("LGA", NOW - 2000, 5.0)]),
    ]
    now = NOW
    device = make_device(clock=lambda: now, features_max_age=100)
    outcome = device.run_once()
    assert (outcome.status, outcome.examples) == ("completed", 20)
    assert back_end.feature_cursors == [None, "7"]
    assert set(store.server_features("weather")) == {"JFK", "LGA"}

    back_end.round = 2
    now = NOW + 99
    assert device.run_once().status == "completed"
    assert back_end.feature_cursors == [None, "7"]  # fresh enough
    back_end.round = 3
    now = NOW + 101
    assert device.run_once().status == "completed"
    assert back_end.feature_cursors == [None, "7", "7"]  # only what came since


def test_pages_of_features_must_end(make_device, back_end, signing_key, store) -> None:
    """A cursor that does not move is an error, not an endless loop."""
    back_end.announce(make_plan(signing_key, joins=True))
    back_end.feature_pages = [make_page([], "7")]
    outcome = make_device().run_once()
    assert (outcome.status, outcome.code) == ("failed", "endless_pages")
    assert back_end.feature_cursors == [None, "7"]
    assert state_of(store) == "abandoned"


# What goes wrong on the way.


@pytest.mark.parametrize("call", ["notices", "plan", "enrol", "check_in", "parameters", "upload"])
def test_a_lost_connection_is_an_outcome(make_device, back_end, store, call) -> None:
    """Wherever it breaks, run_once returns, says so, and a later round works."""
    back_end.failures[call] = unreachable()
    device = make_device()
    outcome = device.run_once()
    assert (outcome.status, outcome.code) == ("failed", "unreachable")
    assert "no route" in outcome.reason
    assert back_end.reports == {}
    back_end.failures.clear()
    back_end.round = 2
    assert device.run_once().status == "completed"


@pytest.mark.parametrize("call", ["notices", "plan", "enrol", "check_in"])
def test_before_the_check_in_counted_the_same_round_is_tried_again(
    make_device, back_end, call
) -> None:
    """Nothing was promised yet, so nothing is lost."""
    back_end.failures[call] = unreachable()
    device = make_device()
    device.run_once()
    back_end.failures.clear()
    assert device.run_once().status == "completed"
    assert len(back_end.reports) == 1


@pytest.mark.parametrize("call", ["parameters", "upload", "after_upload"])
def test_after_the_check_in_a_failed_round_goes_on(make_device, back_end, store, call) -> None:
    """The lease is good for another try, and what has been sealed is sent again as it is."""
    back_end.failures[call] = unreachable()
    device = make_device()
    outcome = device.run_once()
    assert (outcome.status, outcome.resumable) == ("failed", True)
    sent = dict(back_end.reports)
    assert len(sent) == (call == "after_upload")
    assert state_of(store) == "training"
    back_end.failures.clear()
    outcome = device.run_once()
    assert (outcome.status, outcome.resumed, outcome.resumable) == ("completed", True, False)
    assert (len(back_end.check_ins), len(back_end.reports)) == (1, 1)
    assert sent.items() <= back_end.reports.items()
    assert state_of(store) == "uploaded"
    assert device.run_once().code == "already_reported"


class Crash(BaseException):
    """The process ends here."""


@pytest.mark.parametrize("call", ["parameters", "upload", "after_upload"])
def test_after_a_crash_another_process_goes_on(make_device, back_end, store, call) -> None:
    """A process that ended between lease and record is followed by one that knows of the lease."""
    back_end.failures[call] = Crash()
    with pytest.raises(Crash):
        make_device().run_once()
    assert state_of(store) == "training"
    back_end.failures.clear()
    restarted = make_device()
    sent = dict(back_end.reports)
    outcome = restarted.run_once()
    assert (outcome.status, outcome.resumed) == ("completed", True)
    assert (len(back_end.check_ins), len(back_end.reports)) == (1, 1)
    assert sent.items() <= back_end.reports.items()
    back_end.round = 2
    assert restarted.run_once().status == "completed"


def test_a_crash_before_the_check_in_changes_nothing(make_device, back_end) -> None:
    """Heads stay heads, and the round goes on."""
    back_end.failures["check_in"] = Crash()
    with pytest.raises(Crash):
        make_device().run_once()
    back_end.failures.clear()
    assert make_device().run_once().status == "completed"


def test_programming_errors_are_raised(make_device, back_end) -> None:
    """A bug is not disguised as bad luck."""
    back_end.failures["parameters"] = ZeroDivisionError("bug")
    with pytest.raises(ZeroDivisionError):
        make_device().run_once()


def test_a_second_run_while_one_is_under_way_returns_at_once(make_device, back_end) -> None:
    """Two threads never work on the same round."""
    inside, release = threading.Event(), threading.Event()

    def wait() -> None:
        inside.set()
        assert release.wait(20)

    back_end.before["parameters"] = wait
    device = make_device()
    outcomes = []
    thread = threading.Thread(target=lambda: outcomes.append(device.run_once()))
    thread.start()
    assert inside.wait(20)
    assert device.run_once().code == "busy"
    release.set()
    thread.join(20)
    assert outcomes[0].status == "completed"


# What the device refuses.


def assert_refused(outcome: RoundOutcome, status: str, code: str, words: str) -> None:
    assert (outcome.status, outcome.code) == (status, code), outcome
    assert words in outcome.reason


def test_an_unsigned_or_changed_plan_is_refused(make_device, back_end, plan) -> None:
    """Neither a stripped signature nor a flipped bit gets past the check."""
    stripped = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(plan.data)) as old, zipfile.ZipFile(stripped, "w") as new:
        for name in old.namelist():
            if name != "manifest.sig":
                new.writestr(name, old.read(name))
    back_end.plan_data = stripped.getvalue()
    back_end.plan_sha256 = sha256(back_end.plan_data).hexdigest()
    assert_refused(make_device().run_once(), "failed", "plan_signature", "unsigned")

    changed = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(plan.data)) as old, zipfile.ZipFile(changed, "w") as new:
        for name in old.namelist():
            data = old.read(name)
            if name == "manifest.json":
                data = data.replace(b'"noise_multiplier":1.0', b'"noise_multiplier":9.0')
            new.writestr(name, data)
    back_end.plan_data = changed.getvalue()
    back_end.plan_sha256 = sha256(back_end.plan_data).hexdigest()
    assert_refused(make_device().run_once(), "failed", "plan_signature", "changed after")
    assert back_end.check_ins == []


def test_a_plan_of_an_unknown_modeller_is_refused(make_device, back_end) -> None:
    """Only keys that the app names count."""
    other = public_key_hex(generate_signing_key())
    outcome = make_device(plan_keys=[other]).run_once()
    assert_refused(outcome, "failed", "plan_signature", "not one of the 1 trusted keys")


def test_shared_plans_are_shared_among_equal_trust_only(make_device, store, tmp_path) -> None:
    """A plan that one device trusts is no plan to a device with other keys in the same process."""
    plans = PlanCache()
    assert make_device(plans=plans).run_once().status == "completed"
    other = public_key_hex(generate_signing_key())
    with ExampleStore(tmp_path / "other.db") as second:
        outcome = make_device(store=second, plans=plans, plan_keys=[other]).run_once()
    assert_refused(outcome, "failed", "plan_signature", "trusted keys")
    plans.close()


def test_a_swapped_plan_is_refused(make_device, back_end, signing_key) -> None:
    """A properly signed plan that is not the announced one does not pass either."""
    back_end.plan_data = make_plan(signing_key, version="2").data
    outcome = make_device().run_once()
    assert_refused(outcome, "failed", "plan", "another plan than the one it announced")


def test_a_round_announced_again_with_another_plan_is_refused(
    make_device, back_end, signing_key
) -> None:
    """The coin of a round is tossed under one plan."""
    back_end.announce(make_plan(signing_key, sampling_probability=1e-9))
    device = make_device()
    assert device.run_once().status == "not_sampled"
    back_end.announce(make_plan(signing_key, sampling_probability=1.0))
    assert_refused(device.run_once(), "failed", "plan", "already tossed under the plan")
    assert back_end.check_ins == []


@pytest.mark.parametrize(
    "change",
    [
        {"task": "other"},
        {"round": 2},
        {"model_version": 1},
        {"plan_sha256": "0" * 64},
        {"parameters_sha256": "0" * 64},
    ],
)
def test_an_assignment_must_be_what_was_announced(make_device, back_end, store, change) -> None:
    """A device is not given a model, plan or round of its own."""
    back_end.assignment_changes = change
    outcome = make_device().run_once()
    assert_refused(outcome, "failed", "assignment_mismatch", next(iter(change)))
    assert back_end.reports == {}
    assert state_of(store) == "abandoned"


def test_a_clip_norm_out_of_the_signed_range_is_refused(make_device, back_end, signing_key) -> None:
    """Before the coin is tossed or the server hears of it; within the range it is used and noted."""
    adaptive = AdaptiveClippingSpec(min_clip_norm=0.25, max_clip_norm=2.0)
    back_end.announce(make_plan(signing_key, adaptive=adaptive))
    device = make_device()
    for clip_norm in (None, 0.2, 2.5):
        back_end.clip_norm = clip_norm
        assert_refused(device.run_once(), "ineligible", "clip_norm_refused", "clip")
    assert back_end.check_ins == []
    back_end.clip_norm = 0.3
    assert device.run_once().status == "completed"
    receipt = device.receipts.find(task="trips", round=1)
    assert receipt is not None and receipt.clip_norm == 0.3
    back_end.announce(make_plan(signing_key, version="2"))
    back_end.round = 2
    assert_refused(device.run_once(), "ineligible", "clip_norm_refused", "one clip norm")


def test_an_expired_lease_is_not_used(make_device, back_end) -> None:
    """Neither one that is over at once, nor one that ran out during training."""
    back_end.lease_seconds = 0
    outcome = make_device().run_once()
    assert_refused(outcome, "failed", "lease_expired", "expired")

    back_end.round, back_end.lease_seconds = 2, 60
    now = NOW

    def pass_time() -> None:
        nonlocal now
        now = NOW + 61

    back_end.before["parameters"] = pass_time
    outcome = make_device(clock=lambda: now).run_once()
    assert_refused(outcome, "failed", "lease_expired", "expired")
    assert outcome.steps == 10
    assert back_end.reports == {}


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "0 bytes, not the 12"),
        (np.zeros(2, "<f4").tobytes(), "8 bytes, not the 12"),
        (np.zeros(4, "<f4").tobytes(), "16 bytes, not the 12"),
        (np.array([0, np.nan, 0], "<f4").tobytes(), "not all finite"),
        (np.array([0, np.inf, 0], "<f4").tobytes(), "not all finite"),
    ],
)
def test_unusable_parameters_are_refused(make_device, back_end, data, words) -> None:
    """Length and finiteness are checked before anything is trained."""
    back_end.parameters_data = data
    outcome = make_device().run_once()
    assert_refused(outcome, "failed", "plan", words)
    assert back_end.reports == {}


def test_parameters_with_another_hash_are_refused(make_device, back_end, monkeypatch) -> None:
    """Also when the transport did not look."""
    wrong = np.ones(3, "<f4").tobytes()
    monkeypatch.setattr(back_end, "parameters", lambda digest, *, watch: wrong)
    assert_refused(make_device().run_once(), "failed", "plan", "not the ones named")


def test_parameters_known_from_another_plan_do_not_fit(make_device, back_end, signing_key) -> None:
    """A round that pairs a plan with the remembered parameters of another is refused."""
    device = make_device()
    assert device.run_once().status == "completed"
    old = back_end.parameters_data
    back_end.announce(make_plan(signing_key, joins=True))
    back_end.parameters_data, back_end.round = old, 2
    assert_refused(device.run_once(), "failed", "plan", "3 parameters, not the 4")


def test_a_plan_without_privacy_needs_the_apps_word(make_device, back_end, signing_key) -> None:
    """Refused by default, taken part in only where the app allows it."""
    plan = make_plan(signing_key, privacy="none")
    back_end.announce(plan)
    outcome = make_device().run_once()
    assert_refused(outcome, "ineligible", "plan_refused", "no differential privacy")
    assert back_end.check_ins == []
    allowed = make_device(limits=DeviceLimits(allow_unprotected=True))
    assert allowed.run_once().status == "completed"


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        ({"min_noise_multiplier": 1.01}, "noise multiplier is 1, this device's limit is 1.01"),
        ({"max_epsilon": 7.9}, "epsilon is 8"),
        ({"max_delta": 1e-6}, "delta is 1e-05"),
        ({"max_sampling_probability": 0.5}, "sampling probability is 1"),
        ({"max_participations": 49}, "number of participations is 50"),
        ({"max_parameters": 2}, "3 parameters"),
    ],
)
def test_a_plan_beyond_the_devices_limits_is_refused(make_device, back_end, limits, words) -> None:
    """Each guardrail stops the plan, before anything is said to the server."""
    outcome = make_device(limits=DeviceLimits(**limits)).run_once()
    assert_refused(outcome, "ineligible", "plan_refused", words)
    assert set(back_end.calls) == {"notices", "plan"}


def test_too_little_noise_is_refused_by_default(make_device, back_end, signing_key) -> None:
    """Without any setting of the app there is a least noise."""
    back_end.announce(make_plan(signing_key, noise_multiplier=0.1))
    outcome = make_device().run_once()
    assert_refused(outcome, "ineligible", "plan_refused", "noise multiplier")


def test_an_unknown_trusted_tier_is_refused(make_device, back_end, store) -> None:
    """Nothing is sealed to a key that the app does not pin, and by default to none."""
    _, other = generate_key_pair()
    outcome = make_device(aggregator=PinnedAggregator(other.hex())).run_once()
    assert_refused(outcome, "failed", "aggregator_refused", "not one of the 1")
    back_end.round = 2
    outcome = make_device(aggregator=None).run_once()
    assert_refused(outcome, "failed", "aggregator_refused", "no trusted tier is configured")
    assert back_end.reports == {}
    assert "parameters" not in back_end.calls


def test_a_device_that_does_not_fit_stays_silent(
    make_device, back_end, tmp_path, signing_key
) -> None:
    """No collection, another collection, too few examples: decided here, told to nobody."""
    with ExampleStore(tmp_path / "empty.db") as empty:
        outcome = make_device(store=empty).run_once()
        assert_refused(outcome, "ineligible", "no_collection", "trips")
    with ExampleStore(tmp_path / "other.db") as other:
        other.create_collection(Collection("trips", {"x": Field("float")}))
        outcome = make_device(store=other).run_once()
        assert_refused(outcome, "ineligible", "features", "field 'x'")
    with ExampleStore(tmp_path / "few.db") as few:
        few.create_collection(COLLECTION)
        outcome = make_device(store=few).run_once()
        assert_refused(outcome, "ineligible", "too_few_examples", "0 examples, the plan needs 1")
        assert state_of(few) is None
    outcome = make_device(runtime="executorch").run_once()
    assert_refused(outcome, "ineligible", "runtime_unavailable", "no parts for executorch")
    assert back_end.check_ins == []


def test_an_update_that_diverged_is_not_reported(make_device, back_end, store, signing_key) -> None:
    """Training that ends in infinities is a failure that says so."""
    plan = make_plan(signing_key, learning_rate=1000.0)
    back_end.announce(plan)
    generator = np.random.default_rng(0)
    store.append(
        "trips",
        [
            {"x": (generator.normal(size=2) * 1e18).astype(np.float32), "place": "JFK", "y": 1.0}
            for _ in range(40)
        ],
    )
    outcome = make_device().run_once()
    assert_refused(outcome, "failed", "update", "not finite")
    assert back_end.reports == {}


def test_a_report_is_bound_to_its_policy_and_lease(make_device, back_end, plan) -> None:
    """Opened under another policy, round, version or lease, it stays shut."""
    make_device().run_once()
    ((lease, _),) = back_end.reports.items()
    back_end.open_report(lease, plan)
    for change in ({"policy_hash": "0" * 64}, {"round": 2}, {"model_version": 1}, {"task": "x"}):
        with pytest.raises(SealingError):
            back_end.open_report(lease, plan, **change)


def test_a_store_that_fails_is_an_outcome(make_device, back_end, store, monkeypatch) -> None:
    """A full or damaged disk ends the round, not the app."""

    def fail(*_arguments, **_settings):
        raise StoreError("the disk is full")

    monkeypatch.setattr(Participation, "toss", fail)
    assert_refused(make_device().run_once(), "failed", "store", "disk is full")


def test_a_url_opens_a_transport_of_its_own(store, signing_key) -> None:
    """With a URL the device makes its connections itself, and its failures are outcomes."""
    device = Device(store, server="http://127.0.0.1:9", plan_keys=[public_key_hex(signing_key)])
    device._owned_transport._retrier._sleep = lambda _: None
    outcome = device.run_once()
    assert (outcome.status, outcome.code) == ("failed", "unreachable")
    device.close()


def test_back_ends_may_serve_several_devices(plan) -> None:
    """The double is complete: it satisfies the transport's protocol."""
    back_end: Transport = MemoryBackEnd.serving(plan)
    for name in (
        "enrol",
        "notices",
        "check_in",
        "plan",
        "parameters",
        "upload",
        "features",
        "close",
    ):
        assert callable(getattr(back_end, name))
