"""Who may operate a back end: roles, tokens kept as hashes, and a log of every action."""

from __future__ import annotations

import json
import re

import dp_accounting
import numpy as np
import pytest
from dp_accounting import rdp
from typer.testing import CliRunner

from pocketfl.commands.root import build_app
from pocketfl.errors import PocketFLError, TransportError
from pocketfl_server.access import OPERATOR_KEY_NAME, Access
from pocketfl_server.api import create_app
from pocketfl_server.audit import COORDINATOR, RELEASE
from pocketfl_server.commands.access import app
from pocketfl_server.operator_client import OperatorClient
from pocketfl_server.trusted.accounting import SAMPLED_ORDERS

from .conftest import AVERAGING, OPERATOR_KEY, Fleet

MODELLING = {("PUT", "/plans/{sha256}"), ("POST", "/tasks")}
ROLES = ("viewer", "operator", "modeller", "administrator")


def allowed(role: str, method: str, path: str) -> bool:
    """What the roles promise, said here a second time."""
    if role == "administrator":
        return True
    if path.startswith("/tokens"):
        return False
    if method == "GET":
        return True
    return role == ("modeller" if (method, path) in MODELLING else "operator")


@pytest.fixture
def administrator(served):
    """A client with the operator key."""
    with OperatorClient(served.url, OPERATOR_KEY) as client:
        yield client


@pytest.mark.parametrize("role", ROLES)
def test_a_role_covers_what_it_says_on_every_path(role, served, administrator) -> None:
    """On each operation of the OpenAPI document the answer is 403 exactly where the role ends."""
    token = administrator.create_token("somebody", role).token
    document = create_app(served.back_end, operator_key=OPERATOR_KEY).openapi()
    tried = 0
    for path, operations in document["paths"].items():
        if not path.startswith("/v1/operator"):
            continue
        for method in operations:
            short = path.removeprefix("/v1/operator")
            where = re.sub(r"\{\w+\}", "nothing", path)
            status = served(method.upper(), where, token=token).status
            assert (status != 403) is allowed(role, method.upper(), short), (method, path, status)
            assert status < 500
            tried += 1
    assert tried > 20


def test_a_token_is_told_once_and_kept_as_a_hash(served, administrator, tmp_path) -> None:
    """Nothing that the back end wrote holds it; revoked, it is worth nothing at once."""
    token = administrator.create_token("ana", "viewer").token
    with served.back_end.database.reading() as connection:
        rows = connection.exec_driver_sql("SELECT * FROM access_tokens").all()
        rows += connection.exec_driver_sql("SELECT * FROM audit_log").all()
    assert token not in repr(rows)
    with pytest.raises(TransportError, match="has a token already"):
        administrator.create_token("ana", "operator")
    with pytest.raises(TransportError, match="own key"):
        administrator.create_token(OPERATOR_KEY_NAME, "viewer")
    with OperatorClient(served.url, token) as ana:
        assert ana.tasks() == ()
        administrator.revoke_token("ana")
        with pytest.raises(TransportError) as caught:
            ana.tasks()
        assert caught.value.status == 401
    assert administrator.tokens() == ()


def test_every_action_is_on_record_and_nothing_of_devices(
    served, administrator, fleet: Fleet, make_plan
) -> None:
    """Who did what with which outcome, refusals of roles included; reading and strangers leave none."""
    plan = make_plan()
    administrator.create_task("clicks", plan.data, optimizer=AVERAGING)
    token = administrator.create_token("ana", "operator").token
    with OperatorClient(served.url, token) as ana:
        ana.open_round("clicks", seconds=60)
        with pytest.raises(TransportError, match="it takes administrator or modeller"):
            ana.create_task("more", plan.data, optimizer=AVERAGING)
        fleet.reports(3, "clicks", 1, np.full(5, 0.1), plan)
        ana.close_round("clicks", 1)
        with pytest.raises(TransportError, match="no round"):
            ana.close_round("clicks", 7)
        ana.tasks()
    assert served("POST", "/v1/operator/pause", token="a-strangers-guess").status == 401
    entries = [(e.actor, e.action, e.task, e.status) for e in administrator.audit()]
    assert entries == [
        (OPERATOR_KEY_NAME, "PUT /plans/{sha256}", None, 200),
        (OPERATOR_KEY_NAME, "POST /tasks", None, 201),
        (OPERATOR_KEY_NAME, "POST /tokens", None, 201),
        ("ana", "POST /tasks/{task}/rounds", "clicks", 201),
        ("ana", "PUT /plans/{sha256}", None, 403),
        ("ana", "POST /tasks/{task}/rounds/{round}/close", "clicks", 200),
        (COORDINATOR, RELEASE, "clicks", 200),
        ("ana", "POST /tasks/{task}/rounds/{round}/close", "clicks", 404),
    ]
    everything = " ".join(e.details for e in administrator.audit())
    assert "device" not in everything
    last = list(administrator.audit())[-1].sequence
    assert list(administrator.audit(after=last)) == []


def test_an_action_that_never_ended_shows(served, administrator, monkeypatch) -> None:
    """It is on record before it begins: a crash in between leaves it without an outcome."""
    monkeypatch.setattr(served.back_end.audit, "end", lambda *a, **k: None)
    administrator.resume(None)
    (entry,) = administrator.audit()
    assert (entry.action, entry.status) == ("POST /resume", None)


def rebuilt(tree: dict) -> dp_accounting.DpEvent:
    """The event of dp-accounting that a tree describes."""
    settings = {
        name: rebuilt(value) if isinstance(value, dict) else value
        for name, value in tree.items()
        if name != "type"
    }
    return getattr(dp_accounting, tree["type"])(**settings)


@pytest.mark.parametrize("probability", [1.0, 0.5])
def test_a_release_is_on_record_with_its_privacy_event(
    served, administrator, fleet: Fleet, make_plan, probability
) -> None:
    """dp-accounting prices the recorded tree at the epsilon that was charged."""
    plan = make_plan(sampling_probability=probability, noise_multiplier=2.0, population=200)
    administrator.create_task("clicks", plan.data, optimizer=AVERAGING)
    for number in (1, 2):
        administrator.open_round("clicks", seconds=60)
        fleet.reports(3, "clicks", number, np.full(5, 0.1), plan)
        administrator.close_round("clicks", number)
    releases = [e for e in administrator.audit() if e.action == RELEASE]
    assert len(releases) == 2
    for number, entry in enumerate(releases, start=1):
        details = json.loads(entry.details)
        assert (details["round"], details["new_version"], details["reports"]) == (number, number, 3)
        event = rebuilt(json.loads(details["privacy_event"]))
        relation = dp_accounting.NeighboringRelation.REPLACE_SPECIAL
        orders = SAMPLED_ORDERS if probability < 1 else np.linspace(1.1, 60, 2000)
        accountant = rdp.RdpAccountant(orders, relation)
        accountant.compose(event)
        assert accountant.get_epsilon(1e-5) == pytest.approx(details["epsilon"], rel=2e-3)
        assert details["epsilon"] == administrator.model("clicks", number).epsilon


def test_an_unprotected_release_says_so(served, administrator, fleet: Fleet, make_plan) -> None:
    """Its event is the one about which nothing can be claimed."""
    plan = make_plan(privacy="none")
    administrator.create_task("open", plan.data, optimizer=AVERAGING)
    administrator.open_round("open", seconds=60)
    fleet.reports(3, "open", 1, np.full(5, 0.1), plan)
    administrator.close_round("open", 1)
    (entry,) = [e for e in administrator.audit() if e.action == RELEASE]
    details = json.loads(entry.details)
    assert isinstance(
        rebuilt(json.loads(details["privacy_event"])), dp_accounting.NonPrivateDpEvent
    )
    assert details["epsilon"] is None


def test_the_commands_give_list_and_revoke(served, tmp_path) -> None:
    """The token goes to a file of its owner's only; the log prints one line an entry."""
    key = tmp_path / "key"
    key.write_text(OPERATOR_KEY)
    site = ["--url", served.url, "--operator-key-file", str(key)]
    file = tmp_path / "ana.token"

    def say(*words: str) -> str:
        result = CliRunner().invoke(app, [*words, *site])
        assert result.exit_code == 0, result.output
        return result.stdout

    create = ["create", "ana", "--role", "viewer", "--token-file", str(file)]
    assert "ana is viewer" in say(*create)
    assert file.stat().st_mode & 0o077 == 0
    assert CliRunner().invoke(app, [*create, *site]).exit_code == 1
    assert "ana  viewer" in say("list")
    assert "revoked" in say("revoke", "ana")
    lines = say("log").splitlines()
    assert len(lines) == 2
    assert "POST /tokens" in lines[0]
    assert "DELETE /tokens/{name}" in lines[1]
    assert [json.loads(line)["status"] for line in say("log", "--json").splitlines()] == [201, 200]


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("http://127.0.0.1:9", r"127\.0\.0\.1:9 cannot be reached.*does the back end run there"),
        ("http://pocketfl.example", "would send the operator key unencrypted; use https"),
        ("pocketfl", "is not an http or https URL"),
    ],
    ids=["down", "in the clear", "nonsense"],
)
def test_commands_say_what_is_wrong_with_the_address(monkeypatch, url, said) -> None:
    """An error of one line and no traceback, whichever command it is."""
    monkeypatch.setenv("POCKETFL_OPERATOR_KEY", OPERATOR_KEY)
    runner = CliRunner()
    for words in (["task", "list"], ["access", "list"], ["rollout", "show", "clicks"]):
        result = runner.invoke(build_app(), [*words, "--url", url])
        assert result.exit_code == 1
        assert isinstance(result.exception, PocketFLError), result.exception
        assert re.search(said, str(result.exception))


def test_a_command_without_the_role_names_those_that_have_it(served, back_end, make_plan) -> None:
    """The person learns whom to ask."""
    access = Access(back_end.database, operator_key=OPERATOR_KEY)
    token = access.create("vera", "viewer", now=1.0).token
    back_end.create_task("clicks", make_plan().data, optimizer=AVERAGING)
    runner = CliRunner(env={"POCKETFL_OPERATOR_KEY": token, "POCKETFL_URL": served.url})
    assert runner.invoke(build_app(), ["task", "show", "clicks"]).exit_code == 0
    result = runner.invoke(build_app(), ["task", "start", "clicks"])
    assert "takes administrator or operator" in str(result.exception)
    assert back_end.schedule("clicks").state == "never_started"
