"""Synchronous rounds: what devices send moves the model once, as the plan says, or not at all."""

from __future__ import annotations

import numpy as np
import pytest

from pocketfl.protocol import CheckIn, RetryWindow
from pocketfl_server.errors import Conflict, Gone, Malformed, NotFound
from pocketfl_server.optimizers import OptimizerSpec
from pocketfl_server.trusted.messages import SealedEntry

from .conftest import AVERAGING, CHECK_IN, Fleet, everything_in, seal_update


def test_an_unprotected_round_averages_the_updates(back_end, fleet, make_plan) -> None:
    """Without noise and with plain averaging, the model moves by the mean over the expected cohort."""
    initial = np.array([1.0, -1.0, 0.5, 0.0, 2.0])
    plan = make_plan(privacy="none", initial=initial)
    task = back_end.create_task("clicks", plan.data, optimizer=AVERAGING)
    notice = back_end.open_round("clicks", seconds=60)
    assert back_end.notices().notices == (notice,)
    updates = [np.eye(5)[index] * 0.5 for index in range(3)]
    for index, update in enumerate(updates):
        fleet.report(f"d{index}", "clicks", 1, update, plan)
    result = back_end.close_round("clicks")
    assert (result.state, result.new_version) == ("finished", 1)
    # The expected cohort is 4, though 3 reported: the divisor does not depend on who came.
    expected = initial + sum(updates) / 4
    moved = back_end.model_parameters("clicks", 1)
    np.testing.assert_allclose(moved, expected, atol=3 * 0.002 / 4)
    model = back_end.model("clicks", 1)
    assert (model.privacy, model.epsilon, model.reports) == ("none", None, 3)
    assert task.latest_version == 0
    assert back_end.task("clicks").latest_version == 1
    np.testing.assert_array_equal(back_end.model_parameters("clicks", 0), initial)


def test_a_private_round_applies_exactly_the_noised_sum(
    back_end, trusted, fleet, make_plan
) -> None:
    """The stored model is the released values over the expected cohort, and nothing else."""
    plan = make_plan()
    back_end.create_task("clicks", plan.data, optimizer=AVERAGING)
    back_end.open_round("clicks", seconds=60)
    fleet.reports(4, "clicks", 1, np.full(5, 0.5), plan)
    back_end.close_round("clicks")
    release = trusted.release("clicks", 1, 0)  # a repetition, which returns the same bytes
    expected = release.values * (plan.manifest.aggregation.grid_step / 4)
    moved = back_end.model_parameters("clicks", 1)
    np.testing.assert_allclose(moved, expected, rtol=1e-6)
    model = back_end.model("clicks", 1)
    assert (model.epsilon, model.delta) == (release.epsilon, release.delta)
    assert model.epsilon_against_back_end == release.epsilon_against_back_end
    assert model.noise_multiplier == 0.5


def test_rounds_follow_each_other_from_the_newest_version(back_end, fleet, make_plan) -> None:
    """Round n starts from what round n-1 made, optimizer state included."""
    plan = make_plan(privacy="none")
    momentum = OptimizerSpec(kind="sgd", learning_rate=1.0, momentum=0.5)
    back_end.create_task("clicks", plan.data, optimizer=momentum)
    for number in (1, 2):
        notice = back_end.open_round("clicks", seconds=60)
        assert (notice.round, notice.model_version) == (number, number - 1)
        fleet.reports(4, "clicks", number, np.full(5, 0.4), plan)
        back_end.close_round("clicks", number)
    # Heavy ball: 0.4, then 0.5 * 0.4 + 0.4.
    np.testing.assert_allclose(back_end.model_parameters("clicks", 2), 1.0, atol=0.01)


def test_below_the_floor_nothing_moves(back_end, fleet, make_plan) -> None:
    """Too few reports abort the round: counted, no version, reports gone, the next one can open."""
    plan = make_plan(cohort_floor=3)
    back_end.create_task("clicks", plan.data, optimizer=AVERAGING)
    back_end.open_round("clicks", seconds=60)
    fleet.reports(2, "clicks", 1, np.full(5, 0.5), plan)
    result = back_end.close_round("clicks")
    assert (result.state, result.reason, result.new_version) == (
        "aborted",
        "floor_not_reached",
        None,
    )
    assert len(back_end.models("clicks")) == 1
    funnel = back_end.funnel("clicks", 1)
    assert (funnel.leases, funnel.uploaded, funnel.accepted) == (2, 2, 2)
    assert back_end.open_round("clicks", seconds=60).round == 2


def test_an_empty_round_aborts(back_end, make_plan) -> None:
    """A round to which nobody came ends like every other that misses its floor."""
    back_end.create_task("clicks", make_plan().data, optimizer=AVERAGING)
    back_end.open_round("clicks", seconds=60)
    assert back_end.close_round("clicks").reason == "floor_not_reached"


def test_the_plan_s_last_round_finishes_the_task(back_end, fleet, make_plan) -> None:
    """After max_rounds releases no round opens any more."""
    plan = make_plan(max_rounds=2, max_participations=2)
    back_end.create_task("clicks", plan.data, optimizer=AVERAGING)
    for number in (1, 2):
        back_end.open_round("clicks", seconds=60)
        fleet.reports(4, "clicks", number, np.full(5, 0.1), plan)
        back_end.close_round("clicks")
    task = back_end.task("clicks")
    assert (task.state, task.finished_reason) == ("finished", "max_rounds_reached")
    with pytest.raises(Conflict, match="finished") as caught:
        back_end.open_round("clicks", seconds=60)
    assert caught.value.code == "task_finished"


def test_a_budget_that_is_gone_finishes_the_task(back_end, fleet, make_plan) -> None:
    """When no further release fits the budget, the round is aborted and the task finished."""
    plan = make_plan(epsilon=12.0)  # one release spends 10.7, two spend 17
    back_end.create_task("clicks", plan.data, optimizer=AVERAGING)
    for number in (1, 2):
        back_end.open_round("clicks", seconds=60)
        fleet.reports(4, "clicks", number, np.full(5, 0.1), plan)
        result = back_end.close_round("clicks")
    assert (result.state, result.reason) == ("aborted", "budget_exhausted")
    task = back_end.task("clicks")
    assert (task.state, task.finished_reason) == ("finished", "budget_exhausted")
    assert task.latest_version == 1
    assert back_end.funnel("clicks", 2).accepted is None
    assert back_end.close_round("clicks", 2) == result


def test_a_model_that_diverges_is_not_stored(back_end, fleet, make_plan) -> None:
    """Parameters that overflow abort the round for good; the last finite version stays the newest."""
    plan = make_plan(
        privacy="none", clip_norm=1e6, population=1, sampling_probability=1e-30, cohort_floor=1
    )
    fast = OptimizerSpec(kind="sgd", learning_rate=1000.0)
    back_end.create_task("clicks", plan.data, optimizer=fast)
    back_end.open_round("clicks", seconds=60)
    fleet.reports(1, "clicks", 1, np.full(5, 4e5), plan)  # 4e5 / 1e-30 * 1000 is above float32
    result = back_end.close_round("clicks")
    assert (result.state, result.reason) == ("aborted", "diverged")
    assert [model.version for model in back_end.models("clicks")] == [0]
    assert back_end.task("clicks").state == "finished"
    assert back_end.funnel("clicks", 1).accepted == 1


def test_a_deadline_ends_a_round(back_end, fleet, make_plan, clock) -> None:
    """Rounds close at their deadline: no notice, no lease, no report after it."""
    plan = make_plan()
    back_end.create_task("clicks", plan.data, optimizer=AVERAGING)
    back_end.open_round("clicks", seconds=60)
    fleet.reports(3, "clicks", 1, np.full(5, 0.1), plan)
    late = fleet.check_in("late", "clicks", 1)
    assert late.expires_at == clock.now + 60
    clock.now += 59
    assert back_end.close_due_rounds() == []
    clock.now += 1
    assert back_end.notices().notices == ()
    with pytest.raises(Gone) as caught:
        back_end.upload(late.lease, seal_update(np.ones(5), late, plan).data)
    assert caught.value.code == "lease_expired"
    answer = back_end.check_in(fleet.token("later"), "clicks", 1, CHECK_IN)
    assert isinstance(answer, RetryWindow)
    assert answer.reason == "round_closed"
    (result,) = back_end.close_due_rounds()
    assert result.state == "finished"
    assert back_end.close_due_rounds() == []


def test_devices_are_turned_away_with_a_reason(back_end, fleet, make_plan, clock) -> None:
    """Each reason is counted, gives a window to come back, and costs no lease."""
    plan = make_plan()
    back_end.create_task("clicks", plan.data, optimizer=AVERAGING)
    back_end.open_round("clicks", seconds=600)
    fleet.check_in("d", "clicks", 1)
    cases = {
        "already_checked_in": ("d", CHECK_IN),
        "runtime_unsupported": ("e", CheckIn(sdk="1", plan_schemas=(1, 2), runtimes=())),
        "plan_schema_unsupported": (
            "f",
            CheckIn(sdk="1", plan_schemas=(9,), runtimes=("onnxruntime",)),
        ),
    }
    for reason, (name, request) in cases.items():
        answer = back_end.check_in(fleet.token(name), "clicks", 1, request)
        assert isinstance(answer, RetryWindow)
        assert answer.reason == reason
        assert 0 < answer.min_seconds < answer.max_seconds
    again = back_end.check_in(fleet.token("d"), "clicks", 1, CHECK_IN)
    assert again.min_seconds >= 600  # not before this round is over
    funnel = back_end.funnel("clicks", 1)
    assert funnel.turned_away == {
        "already_checked_in": 2,
        "runtime_unsupported": 1,
        "plan_schema_unsupported": 1,
    }
    assert (funnel.leases, funnel.checked_in) == (1, 5)


def test_the_funnel_counts_what_the_trusted_tier_left_out(back_end, fleet, make_plan) -> None:
    """Accepted and rejected come from the release; the other counts survive the deletion of rows."""
    plan = make_plan()
    back_end.create_task("clicks", plan.data, optimizer=AVERAGING)
    back_end.open_round("clicks", seconds=60)
    fleet.reports(3, "clicks", 1, np.full(5, 0.1), plan)
    spoiled = fleet.check_in("mallory", "clicks", 1)
    sealed = bytearray(seal_update(np.ones(5), spoiled, plan).data)
    sealed[-1] ^= 1
    back_end.upload(spoiled.lease, bytes(sealed))
    fleet.check_in("silent", "clicks", 1)
    open_funnel = back_end.funnel("clicks", 1)
    assert (open_funnel.leases, open_funnel.uploaded, open_funnel.accepted) == (5, 4, None)
    back_end.close_round("clicks")
    funnel = back_end.funnel("clicks", 1)
    assert (funnel.checked_in, funnel.leases, funnel.uploaded) == (5, 5, 4)
    assert (funnel.accepted, funnel.rejected) == (3, {"cannot_open": 1})


def test_an_upload_can_be_repeated_but_not_replaced(back_end, fleet, make_plan) -> None:
    """The same bytes get the same receipt, also after the round; other bytes never get one."""
    plan = make_plan()
    back_end.create_task("clicks", plan.data, optimizer=AVERAGING)
    back_end.open_round("clicks", seconds=60)
    fleet.reports(2, "clicks", 1, np.full(5, 0.1), plan)
    assignment = fleet.check_in("d", "clicks", 1)
    sealed = seal_update(np.ones(5), assignment, plan).data
    receipt = back_end.upload(assignment.lease, sealed)
    before = everything_in(back_end)
    assert back_end.upload(assignment.lease, sealed) == receipt
    other = seal_update(np.ones(5), assignment, plan).data
    with pytest.raises(Conflict) as caught:
        back_end.upload(assignment.lease, other)
    assert caught.value.code == "other_report_for_lease"
    assert everything_in(back_end) == before
    back_end.close_round("clicks")
    assert back_end.upload(assignment.lease, sealed) == receipt
    with pytest.raises(Conflict):
        back_end.upload(assignment.lease, other)
    assert back_end.funnel("clicks", 1).uploaded == 3


def test_a_closed_round_takes_no_report(back_end, fleet, make_plan) -> None:
    """A lease of a round that the operator closed early is gone, not unknown."""
    plan = make_plan()
    back_end.create_task("clicks", plan.data, optimizer=AVERAGING)
    back_end.open_round("clicks", seconds=60)
    late = fleet.check_in("late", "clicks", 1)
    back_end.close_round("clicks")
    with pytest.raises(Gone) as caught:
        back_end.upload(late.lease, seal_update(np.ones(5), late, plan).data)
    assert caught.value.code == "round_closed"


def test_one_round_of_a_task_at_a_time(back_end, make_plan) -> None:
    """Opening another is refused; tasks do not get in each other's way."""
    back_end.create_task("a", make_plan(name="a").data, optimizer=AVERAGING)
    back_end.create_task("b", make_plan(name="b").data, optimizer=AVERAGING)
    back_end.open_round("a", seconds=60)
    with pytest.raises(Conflict) as caught:
        back_end.open_round("a", seconds=60)
    assert caught.value.code == "round_under_way"
    back_end.open_round("b", seconds=60)
    assert [notice.task for notice in back_end.notices().notices] == ["a", "b"]


def test_an_aborted_round_deletes_its_reports_everywhere(
    back_end, trusted, fleet, make_plan
) -> None:
    """Aborting leaves no sealed bytes here, can be repeated, and cannot be closed into a version."""
    plan = make_plan()
    back_end.create_task("clicks", plan.data, optimizer=AVERAGING)
    back_end.open_round("clicks", seconds=60)
    fleet.reports(4, "clicks", 1, np.full(5, 0.1), plan)
    result = back_end.abort_round("clicks", 1)
    assert (result.state, result.reason) == ("aborted", "operator")
    assert back_end.abort_round("clicks", 1) == result
    assert back_end.close_round("clicks", 1) == result
    rows = everything_in(back_end)
    assert all(row[3] is None for row in rows["reports"])
    assert rows["check_ins"] == []
    assert len(back_end.models("clicks")) == 1


def test_a_finished_round_cannot_be_aborted(back_end, fleet, make_plan) -> None:
    """What has been released and applied stays."""
    plan = make_plan()
    back_end.create_task("clicks", plan.data, optimizer=AVERAGING)
    back_end.open_round("clicks", seconds=60)
    fleet.reports(4, "clicks", 1, np.full(5, 0.1), plan)
    finished = back_end.close_round("clicks")
    assert back_end.close_round("clicks", 1) == finished
    with pytest.raises(Conflict) as caught:
        back_end.abort_round("clicks", 1)
    assert caught.value.code == "round_finished"


def test_a_released_round_cannot_be_aborted_either(back_end, trusted, fleet, make_plan) -> None:
    """Released and charged but not applied yet: only closing is left, and it still works."""
    plan = make_plan()
    back_end.create_task("clicks", plan.data, optimizer=AVERAGING)
    back_end.open_round("clicks", seconds=60)
    fleet.reports(4, "clicks", 1, np.full(5, 0.1), plan)
    # As after a crash between release and apply.
    held = everything_in(back_end)["reports"]
    trusted.submit("clicks", 1, 0, [SealedEntry(lease=row[0], sealed=row[3]) for row in held])
    trusted.release("clicks", 1, 0)
    with pytest.raises(Conflict) as caught:
        back_end.abort_round("clicks", 1)
    assert caught.value.code == "round_released"
    assert back_end.close_round("clicks", 1).new_version == 1


def test_a_round_needs_a_sensible_length(back_end, make_plan) -> None:
    """A round that never ends, or has ended before it began, is refused."""
    back_end.create_task("clicks", make_plan().data, optimizer=AVERAGING)
    for seconds in (0, -1, float("inf"), float("nan"), 31 * 86400):
        with pytest.raises(Malformed):
            back_end.open_round("clicks", seconds=seconds)


def test_what_does_not_exist_is_named(back_end, make_plan) -> None:
    """Unknown tasks, rounds and models each have their own code."""
    back_end.create_task("clicks", make_plan().data, optimizer=AVERAGING)
    cases = {
        "unknown_task": lambda: back_end.task("other"),
        "unknown_round": lambda: back_end.round("clicks", 7),
        "unknown_model": lambda: back_end.model("clicks", 7),
        "unknown_plan": lambda: back_end.plan("0" * 64),
        "unknown_parameters": lambda: back_end.parameters("0" * 64),
    }
    for code, ask in cases.items():
        with pytest.raises(NotFound) as caught:
            ask()
        assert caught.value.code == code
    with pytest.raises(NotFound) as caught:
        back_end.close_round("other")
    assert caught.value.code == "unknown_task"
    with pytest.raises(Conflict) as caught:
        back_end.close_round("clicks")
    assert caught.value.code == "no_round_under_way"


def test_a_check_in_does_not_wait_for_the_trusted_tier(open_back_end, trusted, make_plan) -> None:
    """What vouches for a key is asked for once, when the round opens, and not by those who come."""
    asked: list[str] = []

    class CountingTier:
        def attest(self, task: str):
            asked.append(task)
            return trusted.attest(task)

        def __getattr__(self, name: str):
            return getattr(trusted, name)

    back_end = open_back_end(trusted_tier=CountingTier())
    back_end.create_task("clicks", make_plan().data, optimizer=AVERAGING)
    back_end.open_round("clicks", seconds=60)
    assert asked == ["clicks"]
    Fleet(back_end).check_in("a", "clicks", 1)
    Fleet(back_end).check_in("b", "clicks", 1)
    assert asked == ["clicks"]
