"""A pause keeps devices away from a task or from all, and takes nothing from those under way."""

from __future__ import annotations

import numpy as np
import pytest
from typer.testing import CliRunner

from pocketfl.errors import TransportError
from pocketfl.protocol import Pause, RetryWindow
from pocketfl_server.commands.task import app
from pocketfl_server.errors import Malformed, NotFound
from pocketfl_server.operator_client import OperatorClient
from pocketfl_server.records import PauseRequest

from .conftest import AVERAGING, CHECK_IN, OPERATOR_KEY, everything_in, seal_update

PAUSE = PauseRequest(reason="a bad model", min_seconds=100.0, max_seconds=300.0)


@pytest.fixture
def two_tasks(back_end, make_plan):
    """Tasks "clicks" and "visits", each with an open round."""
    plans = {}
    for name in ("clicks", "visits"):
        plans[name] = make_plan(name=name)
        back_end.create_task(name, plans[name].data, optimizer=AVERAGING)
        back_end.open_round(name, seconds=600)
    return plans


def check_in(back_end, fleet, device: str, task: str) -> object:
    return back_end.check_in(fleet.token(device), task, 1, CHECK_IN)


def listed(back_end) -> list[str]:
    return [notice.task for notice in back_end.notices().notices]


def test_a_paused_task_gives_no_leases(back_end, fleet, two_tasks, clock) -> None:
    """Its rounds are not listed, its check-ins are turned away into the window; others go on."""
    record = back_end.pause("clicks", PAUSE)
    assert (record.task, record.reason, record.paused_at) == ("clicks", "a bad model", clock.now)
    assert back_end.pauses() == (record,)
    assert listed(back_end) == ["visits"]
    (said,) = back_end.notices().pauses
    assert back_end.notices().pause_of("clicks") == said
    assert back_end.notices().pause_of("visits") is back_end.notices().pause_of(None) is None
    assert said.code == "paused"
    assert said == Pause(task="clicks", reason="a bad model", min_seconds=100, max_seconds=300)
    assert check_in(back_end, fleet, "ana", "clicks") == RetryWindow(
        reason="paused", min_seconds=100.0, max_seconds=300.0
    )
    assert back_end.funnel("clicks", 1).turned_away == {"paused": 1}
    fleet.check_in("ana", "visits", 1)

    assert back_end.resume("clicks") == ()
    assert listed(back_end) == ["clicks", "visits"]
    assert back_end.notices().pauses == ()
    fleet.check_in("ana", "clicks", 1)


def test_the_kill_switch_stops_every_task(back_end, fleet, two_tasks, make_plan) -> None:
    """Also one that is made later; a task's own pause outlives it."""
    back_end.pause("visits", PauseRequest(reason="slow", min_seconds=1000.0, max_seconds=2000.0))
    back_end.pause(None, PAUSE)
    plan = make_plan(name="later")
    back_end.create_task("later", plan.data, optimizer=AVERAGING)
    back_end.open_round("later", seconds=600)
    assert listed(back_end) == []
    assert back_end.notices().pause_of("later").code == "fleet_paused"
    assert back_end.notices().pause_of(None) == back_end.notices().pause_of("visits")
    for task in ("clicks", "later"):
        assert check_in(back_end, fleet, "ana", task).max_seconds == 300.0
    assert check_in(back_end, fleet, "ana", "visits").min_seconds == 1000.0  # the longer one
    (still,) = back_end.resume(None)
    assert still.task == "visits"
    assert listed(back_end) == ["clicks", "later"]


def test_reports_under_way_are_taken(back_end, fleet, two_tasks) -> None:
    """A device that got its lease before the pause may still hand in its report."""
    plan = two_tasks["clicks"]
    assignment = fleet.check_in("ana", "clicks", 1)
    back_end.pause(None, PAUSE)
    back_end.upload(assignment.lease, seal_update(np.ones(5), assignment, plan).data)
    assert back_end.funnel("clicks", 1).uploaded == 1


def test_pausing_again_replaces_and_resuming_again_changes_nothing(back_end, two_tasks) -> None:
    """Both may be repeated."""
    back_end.pause("clicks", PAUSE)
    second = back_end.pause("clicks", PauseRequest(reason="still"))
    assert back_end.pauses() == (second,)
    for _ in range(2):
        assert back_end.resume("clicks") == ()


def test_a_pause_survives_a_restart(open_back_end, back_end, two_tasks) -> None:
    """Another gateway over the same database obeys it at once."""
    back_end.pause("clicks", PAUSE)
    assert listed(open_back_end()) == ["visits"]


@pytest.mark.parametrize(
    "wanted",
    [
        PauseRequest(reason=""),
        PauseRequest(reason="x" * 201),
        PauseRequest(reason="two\nlines"),
        PauseRequest(reason="ok", min_seconds=-1.0),
        PauseRequest(reason="ok", min_seconds=10.0, max_seconds=5.0),
        PauseRequest(reason="ok", max_seconds=31 * 86_400.0),
    ],
)
def test_an_impossible_pause_is_refused(back_end, two_tasks, wanted) -> None:
    """Nothing is written."""
    before = everything_in(back_end)
    with pytest.raises(Malformed):
        back_end.pause("clicks", wanted)
    assert everything_in(back_end) == before


def test_an_unknown_task_is_named(back_end) -> None:
    """Pausing and resuming what is not there is a mistake and no success."""
    with pytest.raises(NotFound, match="none"):
        back_end.pause("none", PAUSE)
    with pytest.raises(NotFound, match="none"):
        back_end.resume("none")
    assert back_end.pauses() == ()


def test_the_longest_window_is_still_one(back_end, fleet, two_tasks) -> None:
    """A window of thirty days is given out as it is."""
    month = 30 * 86_400.0
    back_end.pause("clicks", PauseRequest(reason="ok", min_seconds=month, max_seconds=month))
    assert check_in(back_end, fleet, "ana", "clicks").min_seconds == month


def test_an_operator_pauses_over_http(served, back_end, two_tasks) -> None:
    """The client says what the service layer says, and a refusal arrives with its code."""
    with OperatorClient(served.url, OPERATOR_KEY) as operator:
        of_task = operator.pause("clicks", reason="a bad model")
        of_all = operator.pause(None, reason="stop", min_seconds=1.0, max_seconds=2.0)
        assert operator.pauses() == back_end.pauses() == (of_all, of_task)
        etag = served("GET", "/v1/notices").headers["ETag"]
        assert operator.resume(None) == (of_task,)
        assert served("GET", "/v1/notices").headers["ETag"] != etag
        assert operator.resume("clicks") == ()
        with pytest.raises(TransportError) as caught:
            operator.pause("none", reason="x")
        assert (caught.value.status, caught.value.code) == (404, "unknown_task")
        with pytest.raises(TransportError) as caught:
            operator.pause(None, reason="")
        assert caught.value.status == 422
    assert served("POST", "/v1/operator/pause", json={"reason": "x"}).status == 401
    assert served("POST", "/v1/operator/resume").status == 401
    assert back_end.pauses() == ()


def test_a_person_pauses_on_the_command_line(served, back_end, two_tasks, tmp_path) -> None:
    """A task by its name, all by saying so, and neither by accident."""
    (tmp_path / "key").write_text(OPERATOR_KEY)
    site = ["--url", served.url, "--operator-key-file", str(tmp_path / "key")]
    runner = CliRunner()

    def say(*words: str) -> str:
        result = runner.invoke(app, [*words, *site])
        assert result.exit_code == 0, result.output
        return result.stdout

    assert "paused clicks" in say("pause", "clicks", "--reason", "a bad model")
    assert "paused every task" in say("pause", "--all", "--reason", "stop", "--max-seconds", "1e4")
    assert [record.task for record in back_end.pauses()] == [None, "clicks"]
    assert "still paused: clicks (a bad model)" in say("resume", "--all")
    assert say("resume", "clicks") == "resumed clicks\n"
    assert back_end.pauses() == ()
    for words in (["pause", "--reason", "x"], ["resume"], ["resume", "clicks", "--all"]):
        assert runner.invoke(app, [*words, *site]).exit_code == 2
