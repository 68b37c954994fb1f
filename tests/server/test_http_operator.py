"""The operator's routes through the client that drivers use, over real HTTP."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from pocketfl.errors import TransportError
from pocketfl.protocol import FeatureRow
from pocketfl_server.operator_client import OperatorClient

from .conftest import AVERAGING, OPERATOR_KEY, Fleet, Served


@pytest.fixture
def operator(served: Served) -> Iterator[OperatorClient]:
    with OperatorClient(served.url, OPERATOR_KEY) as client:
        yield client


def test_an_operator_runs_a_task(served, operator, trusted, make_plan) -> None:
    """Create, open, close, look: the client says what the service layer says."""
    plan = make_plan()
    task = operator.create_task("clicks", plan.data, optimizer=AVERAGING)
    assert operator.create_task("clicks", plan.data, optimizer=AVERAGING) == task
    assert task.aggregator.public_key == trusted.register("clicks", plan.data).public_key
    notice = operator.open_round("clicks", seconds=60)
    assert served.back_end.notices().notices == (notice,)
    Fleet(served.back_end).reports(4, "clicks", 1, np.full(5, 0.5), plan)
    result = operator.close_round("clicks", notice.round)
    assert operator.close_round("clicks", notice.round) == result
    assert operator.round("clicks", 1) == result
    assert operator.rounds("clicks") == (result,)
    assert operator.models("clicks") == served.back_end.models("clicks")
    assert operator.model("clicks", 1) == served.back_end.model("clicks", 1)
    np.testing.assert_array_equal(
        operator.model_parameters("clicks", 1), served.back_end.model_parameters("clicks", 1)
    )
    assert operator.funnel("clicks", 1) == served.back_end.funnel("clicks", 1)
    assert operator.tasks() == (operator.task("clicks"),)
    assert operator.privacy("clicks") == trusted.describe("clicks")
    assert operator.open_round("clicks", seconds=60).round == 2
    assert operator.abort_round("clicks", 2).reason == "operator"


def test_a_refusal_arrives_with_its_code(operator, make_plan) -> None:
    """Status, code and sentence survive the way."""
    plan = make_plan(privacy="none", name="plain")
    operator.create_task("plain", plan.data, optimizer=AVERAGING)
    private = make_plan(name="private")
    with pytest.raises(TransportError, match="without differential privacy") as caught:
        operator.create_task("private", private.data, optimizer=AVERAGING, seed_model=("plain", 0))
    assert (caught.value.status, caught.value.code) == (409, "unprotected_seed")
    with pytest.raises(TransportError) as caught:
        operator.task("none/../x")
    assert caught.value.status == 404


def test_a_refusal_of_the_trusted_tier_arrives_too(operator, make_plan) -> None:
    """A plan that cannot keep its promise names the reason of the trusted tier."""
    plan = make_plan(epsilon=0.1)
    with pytest.raises(TransportError, match="trusted tier: a single release") as caught:
        operator.create_task("clicks", plan.data, optimizer=AVERAGING)
    assert (caught.value.status, caught.value.code) == (422, "budget_below_one_release")
    with pytest.raises(TransportError, match="belongs to task 'a'"):
        good = make_plan()
        operator.create_task("a", good.data, optimizer=AVERAGING)
        operator.create_task("b", good.data, optimizer=AVERAGING)
    assert [task.name for task in operator.tasks()] == ["a"]


def test_features_of_many_users_go_in_batches(served, operator, monkeypatch) -> None:
    """However small the batches are, every row of every user arrives."""
    from pocketfl_server import operator_client

    monkeypatch.setattr(operator_client, "FEATURES_BATCH", 7)
    rows = {
        f"user-{user}": [
            FeatureRow(key=f"k{index}", valid_from=float(index), values={"x": index / 3})
            for index in range(user)
        ]
        for user in range(10)
    }
    assert operator.put_features("weather", rows) == 45
    fleet = Fleet(served.back_end)
    for user, wanted in rows.items():
        page = served.back_end.features(fleet.token(user), "weather")
        assert page.rows == tuple(wanted)


def test_a_key_never_goes_out_unencrypted() -> None:
    """Plain HTTP to another machine is refused before anything is sent."""
    with pytest.raises(ValueError, match="unencrypted"):
        OperatorClient("http://fl.example.com", OPERATOR_KEY)
    with pytest.raises(ValueError, match="not an http"):
        OperatorClient("ftp://localhost", OPERATOR_KEY)


def test_a_server_that_is_away_is_a_transport_error() -> None:
    """The message says who could not be reached."""
    with (
        OperatorClient("http://127.0.0.1:9", OPERATOR_KEY) as client,
        pytest.raises(TransportError, match=r"127\.0\.0\.1:9 cannot be reached"),
    ):
        client.tasks()
