"""A crash between any two steps of ending a round loses nothing and doubles nothing."""

from __future__ import annotations

import numpy as np
import pytest

from pocketfl_server.trusted.refusals import TrustedTierUnavailable

from .conftest import AVERAGING, Fleet, everything_in, seal_update


class Crash(BaseException):
    """The process ends here; no handler in between may catch it."""


class CrashingTier:
    """The real trusted tier, with a crash before or after one of its answers."""

    def __init__(self, trusted, *, before: str = "", after: str = "") -> None:
        self._trusted = trusted
        self._before = before
        self._after = after

    def _call(self, name, *arguments):
        if self._before == name:
            raise Crash
        answer = getattr(self._trusted, name)(*arguments)
        if self._after == name:
            raise Crash
        return answer

    def register(self, *arguments):
        return self._call("register", *arguments)

    def attest(self, *arguments):
        return self._call("attest", *arguments)

    def submit(self, *arguments):
        return self._call("submit", *arguments)

    def release(self, *arguments):
        return self._call("release", *arguments)

    def abandon(self, *arguments):
        return self._call("abandon", *arguments)


def prepare(back_end, make_plan, *, devices: int = 4, **changes):
    plan = make_plan(**changes)
    back_end.create_task("clicks", plan.data, optimizer=AVERAGING)
    back_end.open_round("clicks", seconds=60)
    Fleet(back_end).reports(devices, "clicks", 1, np.full(5, 0.5), plan)
    return plan


@pytest.mark.parametrize(
    "crash",
    [{"before": "submit"}, {"after": "submit"}, {"before": "release"}, {"after": "release"}],
    ids=lambda crash: "-".join(*crash.items()),
)
def test_a_round_continues_after_a_crash(open_back_end, trusted, make_plan, crash) -> None:
    """The next process closes the round to one version, made of the one release."""
    doomed = open_back_end(trusted_tier=CrashingTier(trusted, **crash))
    plan = prepare(doomed, make_plan)
    with pytest.raises(Crash):
        doomed.close_round("clicks")
    doomed.close()
    survivor = open_back_end()
    assert survivor.round("clicks", 1).state == "closing"
    (result,) = survivor.close_due_rounds()  # nobody has to ask for it
    assert (result.state, result.new_version) == ("finished", 1)
    release = trusted.release("clicks", 1, 0)
    assert release.reports == 4
    expected = release.values * (plan.manifest.aggregation.grid_step / 4)
    np.testing.assert_allclose(survivor.model_parameters("clicks", 1), expected, rtol=1e-6)
    funnel = survivor.funnel("clicks", 1)
    assert (funnel.uploaded, funnel.accepted) == (4, 4)
    assert [model.version for model in survivor.models("clicks")] == [0, 1]


@pytest.mark.parametrize("crash", [{"before": "abandon"}, {"after": "abandon"}])
def test_an_abort_continues_after_a_crash(open_back_end, trusted, make_plan, crash) -> None:
    """The reason and the counts of a round below its floor survive, too."""
    doomed = open_back_end(trusted_tier=CrashingTier(trusted, **crash))
    prepare(doomed, make_plan, devices=1)
    with pytest.raises(Crash):
        doomed.close_round("clicks")
    doomed.close()
    survivor = open_back_end()
    (result,) = survivor.close_due_rounds()
    assert (result.state, result.reason) == ("aborted", "floor_not_reached")
    assert survivor.funnel("clicks", 1).accepted == 1
    assert everything_in(survivor)["check_ins"] == []


def test_an_operator_s_abort_continues_after_a_crash(open_back_end, trusted, make_plan) -> None:
    """What the operator wanted stays wanted."""
    doomed = open_back_end(trusted_tier=CrashingTier(trusted, after="abandon"))
    prepare(doomed, make_plan)
    with pytest.raises(Crash):
        doomed.abort_round("clicks")
    survivor = open_back_end()
    assert survivor.close_round("clicks", 1).reason == "operator"


def test_a_crash_in_the_last_transaction_leaves_nothing_of_it(
    open_back_end, make_plan, monkeypatch
) -> None:
    """Model, counts, end of the round and deletions come together or not at all."""
    doomed = open_back_end()
    prepare(doomed, make_plan)
    before = everything_in(doomed)
    with monkeypatch.context() as patch:
        patch.setattr(type(doomed._coordinator), "_forget", staticmethod(lambda *_, **__: crash()))
        with pytest.raises(Crash):
            doomed.close_round("clicks")
    after = everything_in(doomed)
    for table in ("models", "round_counts", "check_ins", "blobs"):
        assert after[table] == before[table]
    assert open_back_end().close_round("clicks").new_version == 1


def crash() -> None:
    raise Crash


def test_a_task_is_created_after_a_crash(open_back_end, trusted, make_plan) -> None:
    """A key that was bound before the crash is the key of the task that is created after it."""
    plan = make_plan()
    doomed = open_back_end(trusted_tier=CrashingTier(trusted, after="register"))
    with pytest.raises(Crash):
        doomed.create_task("clicks", plan.data, optimizer=AVERAGING)
    assert doomed.tasks() == ()
    task = open_back_end().create_task("clicks", plan.data, optimizer=AVERAGING)
    assert task.aggregator.public_key == trusted.register("clicks", plan.data).public_key


def test_an_open_round_outlives_the_process(open_back_end, make_plan) -> None:
    """Leases and receipts that one process gave out are good at the next one."""
    first = open_back_end()
    plan = prepare(first, make_plan, devices=2)
    fleet = Fleet(first)
    assignment = fleet.check_in("late", "clicks", 1)
    first.close()
    second = open_back_end()
    second.upload(assignment.lease, seal_update(np.ones(5), assignment, plan).data)
    assert second.close_round("clicks").state == "finished"
    assert second.funnel("clicks", 1).uploaded == 3


def test_two_gateways_end_a_round_once(open_back_end, trusted, make_plan) -> None:
    """Both may try; one version comes of it, and both say the same."""
    first, second = open_back_end(), open_back_end()
    prepare(first, make_plan)
    assert second.close_round("clicks", 1) == first.close_round("clicks", 1)
    assert [model.version for model in second.models("clicks")] == [0, 1]


def test_a_gateway_that_lost_the_race_applies_nothing(open_back_end, trusted, make_plan) -> None:
    """Between one gateway's release and its last transaction, another finishes the round."""

    class Overtaken(CrashingTier):
        def release(self, *arguments):
            release = self._trusted.release(*arguments)
            other.close_round("clicks", 1)
            return release

    other = open_back_end()
    slow = open_back_end(trusted_tier=Overtaken(trusted))
    prepare(slow, make_plan)
    assert slow.close_round("clicks").new_version == 1
    assert [model.version for model in slow.models("clicks")] == [0, 1]
    assert slow.funnel("clicks", 1).accepted == 4


def test_a_trusted_tier_that_is_away_delays_a_round_but_not_the_others(
    open_back_end, trusted, make_plan, clock, caplog
) -> None:
    """The failure is logged without details of reports, retried ever less often, and then succeeds."""

    class Away(CrashingTier):
        away = True

        def release(self, task, *arguments):
            if self.away and task == "clicks":
                raise TrustedTierUnavailable("no answer")
            return self._trusted.release(task, *arguments)

    tier = Away(trusted)
    back_end = open_back_end(trusted_tier=tier)
    prepare(back_end, make_plan)
    back_end.create_task("views", make_plan(name="views").data, optimizer=AVERAGING)
    back_end.open_round("views", seconds=60)
    clock.now += 61
    assert [result.task for result in back_end.close_due_rounds()] == ["views"]
    assert back_end.round("clicks", 1).state == "closing"
    assert "TrustedTierUnavailable" in caplog.text
    tier.away = False
    assert back_end.close_due_rounds() == []  # not again at once
    clock.now += 2
    assert [result.state for result in back_end.close_due_rounds()] == ["finished"]
