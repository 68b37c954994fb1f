"""Anonymous check-in: one token per device and epoch, taken once, and nothing that joins the two."""

from __future__ import annotations

from base64 import urlsafe_b64encode
from dataclasses import replace

import numpy as np
import pytest

from pocketfl.credentials.directory import empty_directory, heads_of
from pocketfl.credentials.tokens import challenge, finish_token, request_token
from pocketfl.plan import AsynchronousSpec
from pocketfl.protocol import Assignment, RetryWindow, TokenKey
from pocketfl_server.attestations import REFRESH_SECONDS, RETRY_SECONDS, STALE_SECONDS
from pocketfl_server.credentials.directory import PublicDirectory
from pocketfl_server.errors import Conflict, Malformed, NotAuthenticated, NotFound
from pocketfl_server.optimizers import OptimizerSpec
from pocketfl_server.records import Concurrency
from pocketfl_server.trusted.messages import PublishedTokenKeys
from pocketfl_server.trusted.refusals import Conflict as TrustedConflict
from pocketfl_server.trusted.refusals import TrustedTierUnavailable

from .conftest import CHECK_IN, Fleet, everything_in, seal_update

AHEAD = 3
AVERAGING = OptimizerSpec(kind="sgd", learning_rate=1.0)


@pytest.fixture(autouse=True)
def few_keys(monkeypatch) -> None:
    """Making a key takes a while; what holds for three epochs ahead holds for more."""
    monkeypatch.setattr("pocketfl_server.credentials.epochs.AHEAD", AHEAD)


@pytest.fixture
def plan(back_end, make_plan):
    plan = make_plan()
    back_end.create_task("clicks", plan.data, optimizer=AVERAGING)
    return plan


def key_of(back_end, number: int) -> bytes:
    keys = {key.first_round: key.public_key for key in back_end.token_keys("clicks").keys}
    return bytes.fromhex(keys[number])


def fetch(back_end, fleet, name: str, number: int, *, span: int = 1) -> bytes:
    key = key_of(back_end, number)
    request = request_token(key, challenge("clicks", number, number + span - 1))
    response = back_end.sign_token(fleet.token(name), "clicks", number, request.data)
    return finish_token(key, request, response)


def test_a_round_of_anonymous_devices(back_end, fleet, plan) -> None:
    """Tokens fetched ahead of a round give leases in it, and the round ends like any other."""
    tokens = [fetch(back_end, fleet, f"device-{n}", 1) for n in range(4)]
    back_end.open_round("clicks", seconds=60)
    for token in tokens:
        assignment = back_end.check_in_anonymously(token, "clicks", 1, CHECK_IN)
        assert isinstance(assignment, Assignment)
        back_end.upload(assignment.lease, seal_update(np.full(5, 0.5), assignment, plan).data)
    assert back_end.close_round("clicks").new_version == 1


def test_a_token_is_taken_once_and_for_its_round_only(back_end, fleet, plan) -> None:
    """The second check-in with it finds the place taken; in another round it is worth nothing."""
    first, second = (fetch(back_end, fleet, "ana", number) for number in (1, 2))
    back_end.open_round("clicks", seconds=60)
    assert isinstance(back_end.check_in_anonymously(first, "clicks", 1, CHECK_IN), Assignment)
    again = back_end.check_in_anonymously(first, "clicks", 1, CHECK_IN)
    assert isinstance(again, RetryWindow)
    assert again.reason == "token_spent"
    before = everything_in(back_end)
    for token in (second, first[:-1] + bytes([first[-1] ^ 1]), b"", first + b"x"):
        with pytest.raises(NotAuthenticated) as refused:
            back_end.check_in_anonymously(token, "clicks", 1, CHECK_IN)
        assert refused.value.code == "wrong_token"
    assert everything_in(back_end) == before


def test_one_token_for_each_device_and_round(back_end, fleet, plan) -> None:
    """The same request is answered again with the same bytes; another one is refused."""
    key = key_of(back_end, 1)
    one, other = (request_token(key, challenge("clicks", 1, 1)).data for _ in range(2))
    token = fleet.token("ana")
    response = back_end.sign_token(token, "clicks", 1, one)
    assert back_end.sign_token(token, "clicks", 1, one) == response
    with pytest.raises(Conflict) as refused:
        back_end.sign_token(token, "clicks", 1, other)
    assert refused.value.code == "token_issued"
    # Another device has its own, and so has this one in the next round.
    back_end.sign_token(fleet.token("ben"), "clicks", 1, other)
    fetch(back_end, fleet, "ana", 2)


def test_tokens_are_for_rounds_to_come(back_end, fleet, plan) -> None:
    """Nobody fetches a token for a round that is open: the moment would tell whose it is."""
    rounds = [key.first_round for key in back_end.token_keys("clicks").keys]
    assert rounds == list(range(1, AHEAD + 1))
    early = back_end.token_keys("clicks")
    back_end.open_round("clicks", seconds=60)
    later = back_end.token_keys("clicks")
    assert [key.first_round for key in later.keys] == list(range(1, AHEAD + 2))
    assert (early.next_round, later.next_round) == (1, 2)
    # What was announced once stays: devices that asked earlier or later have the same keys.
    assert later.keys[:-1] == early.keys
    for number in (0, 1, AHEAD + 2):
        with pytest.raises(NotFound) as refused:
            back_end.sign_token(fleet.token("ana"), "clicks", number, bytes(259))
        assert refused.value.code == "no_token_key"
    with pytest.raises(NotFound):
        back_end.token_keys("unknown")


def test_garbage_is_not_signed(back_end, fleet, plan) -> None:
    """Requests of other types, keys, lengths or ranges leave no trace."""
    key = key_of(back_end, 1)
    good = request_token(key, challenge("clicks", 1, 1)).data
    token = fleet.token("ana")
    before = everything_in(back_end)
    wrong_key = good[:2] + bytes([good[2] ^ 1]) + good[3:]
    for data in (
        b"",
        b"\0\1" + good[2:],
        wrong_key,
        good[:3] + b"\xff" * 256,
        good[:3] + bytes(256),
    ):
        with pytest.raises(Malformed) as refused:
            back_end.sign_token(token, "clicks", 1, data)
        assert refused.value.code == "token_request"
    with pytest.raises(NotAuthenticated):
        back_end.sign_token("nobody", "clicks", 1, good)
    assert everything_in(back_end) == before


def test_nothing_on_record_joins_a_device_with_its_check_in(back_end, fleet, plan) -> None:
    """Of a token's bytes, none that the back end saw when it signed is among those it sees later."""
    token = fetch(back_end, fleet, "ana", 1)
    issued = {value for row in everything_in(back_end)["issued_tokens"] for value in row}
    back_end.open_round("clicks", seconds=60)
    back_end.check_in_anonymously(token, "clicks", 1, CHECK_IN)
    ((_, stands_for),) = everything_in(back_end)["check_ins"]
    devices = {row[0] for row in everything_in(back_end)["devices"]}
    assert stands_for not in devices | issued
    assert not any(isinstance(value, bytes) and value in token for value in issued | devices)


def test_a_back_end_can_insist(open_back_end, make_plan, fleet) -> None:
    """With anonymous_only a device token is refused at check-in, with a reason, and nothing is kept."""
    strict = open_back_end(anonymous_only=True)
    strict.create_task("clicks", make_plan().data, optimizer=AVERAGING)
    token = fetch(strict, fleet, "ana", 1)
    strict.open_round("clicks", seconds=60)
    with pytest.raises(Malformed) as refused:
        strict.check_in(fleet.token("ana"), "clicks", 1, CHECK_IN)
    assert refused.value.code == "anonymous_token_needed"
    assert isinstance(strict.check_in_anonymously(token, "clicks", 1, CHECK_IN), Assignment)


def test_over_http(served, fleet, make_plan) -> None:
    """The routes of RFC 9578's messages and RFC 9577's scheme, and their refusals."""
    back_end = served.back_end
    back_end.create_task("clicks", make_plan().data, optimizer=AVERAGING)
    key = key_of(back_end, 1)
    request = request_token(key, challenge("clicks", 1, 1))
    path = "/v1/tasks/clicks/token-keys/1/token"
    media = "application/private-token-request"
    token = fleet.token("ana")
    signed = served("POST", path, token=token, body=request.data, media_type=media)
    assert (signed.status, signed.headers["content-type"]) == (
        200,
        "application/private-token-response",
    )
    finished = urlsafe_b64encode(finish_token(key, request, signed.data)).decode()
    back_end.open_round("clicks", seconds=60)
    body = {"sdk": "0.1", "plan_schemas": [1, 2], "runtimes": ["onnxruntime"]}

    def check_in(authorization: str):
        return served(
            "POST",
            "/v1/tasks/clicks/rounds/1/check-in",
            json=body,
            headers={"Authorization": authorization},
        )

    assert check_in(f'PrivateToken token="{finished}"').status == 200
    for wrong in ('PrivateToken token="@@"', "PrivateToken", 'PrivateToken token=""'):
        assert check_in(wrong).status == 401, wrong
    for data, status in ((b"x" * 260, 413), (b"x" * 259, 404), (b"", 404)):
        answer = served("POST", path, token=token, body=data, media_type=media)
        assert answer.status == status, data


def test_a_token_is_good_for_one_round_of_its_epoch(open_back_end, make_plan) -> None:
    """Spent in one round it is refused in the next, also after a restart; then it is forgotten."""
    back_end = open_back_end()
    fleet = Fleet(back_end)
    task = back_end.create_task("clicks", make_plan().data, optimizer=AVERAGING, rounds_per_token=2)
    assert task.rounds_per_token == 2
    with pytest.raises(Conflict):
        back_end.create_task("clicks", make_plan().data, optimizer=AVERAGING)
    spent, kept = (fetch(back_end, fleet, name, 1, span=2) for name in ("ana", "ben"))
    later = fetch(back_end, fleet, "ana", 3, span=2)
    back_end.open_round("clicks", seconds=60)
    assert isinstance(back_end.check_in_anonymously(spent, "clicks", 1, CHECK_IN), Assignment)
    back_end.abort_round("clicks")
    back_end = open_back_end()
    back_end.open_round("clicks", seconds=60)
    again = back_end.check_in_anonymously(spent, "clicks", 2, CHECK_IN)
    assert isinstance(again, RetryWindow)
    assert again.reason == "token_spent"
    assert isinstance(back_end.check_in_anonymously(kept, "clicks", 2, CHECK_IN), Assignment)
    assert len(everything_in(back_end)["spent_tokens"]) == 2
    with pytest.raises(NotAuthenticated, match="round 2 takes tokens for rounds 1 to 2"):
        back_end.check_in_anonymously(later, "clicks", 2, CHECK_IN)
    back_end.abort_round("clicks")
    rows = everything_in(back_end)
    assert rows["spent_tokens"] == []
    assert [row[1] for row in rows["issued_tokens"]] == [3]
    assert min(row[1] for row in rows["token_keys"]) == 3
    back_end.open_round("clicks", seconds=60)
    with pytest.raises(NotAuthenticated, match="round 3 takes tokens for rounds 3 to 4"):
        back_end.check_in_anonymously(kept, "clicks", 3, CHECK_IN)


def test_a_device_that_counts_no_rounds_gets_no_tokens_that_are_too_near(
    back_end, fleet, make_plan
) -> None:
    """Of asynchronous rounds two apart, every other epoch of two; the other ones are refused."""
    spec = AsynchronousSpec(max_staleness=1, min_separation=2)
    plan = make_plan(privacy="none", asynchronous=spec, population=100)
    few = Concurrency(selection_size=4, open_slots=2, reports_per_release=2)
    task = back_end.create_task("clicks", plan.data, optimizer=AVERAGING, concurrency=few)
    # An epoch is as long as the separation, unless the task says otherwise.
    assert task.rounds_per_token == 2
    assert back_end.token_keys("clicks").separation == 2
    fetch(back_end, fleet, "ana", 3, span=2)
    for near in (1, 5):
        with pytest.raises(Conflict) as refused:
            fetch(back_end, fleet, "ana", near, span=2)
        assert refused.value.code == "token_too_soon"
    for name in ("ben", "cy"):
        fetch(back_end, fleet, name, 1, span=2)
        fetch(back_end, fleet, name, 5, span=2)
    # Who had which token is remembered until the next ones are far enough.
    back_end.open_round("clicks", seconds=600)
    back_end.abort_round("clicks")
    assert {row[1] for row in everything_in(back_end)["issued_tokens"]} == {1, 3, 5}
    with pytest.raises(Malformed, match="at least 15"):
        back_end.create_task(
            "other",
            make_plan(
                name="other",
                privacy="none",
                asynchronous=AsynchronousSpec(max_staleness=1, min_separation=30),
                population=100,
            ).data,
            optimizer=AVERAGING,
            concurrency=few,
            rounds_per_token=14,
        )


def test_the_trusted_tier_takes_one_key_for_each_epoch(back_end, trusted, plan) -> None:
    """What devices see is what the directory has; a back end that changes a key is refused one."""
    keys = back_end.token_keys("clicks")
    head = heads_of(keys.start, keys.keys)[-1]
    assert (keys.start, head) == (
        empty_directory("clicks"),
        trusted._ledger.token_key_heads()["clicks"],
    )
    with back_end.database.writing() as connection:
        connection.exec_driver_sql(
            "UPDATE token_keys SET public_key = "
            "(SELECT public_key FROM token_keys WHERE first_round = 2) WHERE first_round = 1"
        )
    with pytest.raises(TrustedConflict) as refused:
        back_end.token_keys("clicks")
    assert refused.value.code == "token_keys_conflict"
    assert trusted._ledger.token_key_heads()["clicks"] == head


class Away:
    """A trusted tier behind a line that breaks."""

    def __init__(self) -> None:
        self.asked = 0
        self.is_there = True

    def publish_token_keys(self, task, keys):
        self.asked += 1
        if not self.is_there:
            raise TrustedTierUnavailable("nobody there")
        return PublishedTokenKeys(start=empty_directory(task))


def test_keys_are_shown_for_a_while_when_the_trusted_tier_is_away(clock) -> None:
    """What vouches for them is asked for when it grows old, and given out until it is too old."""
    trusted = Away()
    directory = PublicDirectory(trusted, clock=clock)
    keys = (TokenKey(first_round=1, last_round=1, public_key="00"),)
    answer = directory.publish("clicks", keys)
    assert directory.publish("clicks", keys) is answer
    assert trusted.asked == 1
    trusted.is_there = False
    clock.now += REFRESH_SECONDS
    assert directory.publish("clicks", keys) is answer
    assert directory.publish("clicks", keys) is answer
    assert trusted.asked == 2
    clock.now += STALE_SECONDS
    for _ in range(2):
        with pytest.raises(TrustedTierUnavailable):
            directory.publish("clicks", keys)
    assert trusted.asked == 3
    # Other keys are vouched for by nothing yet.
    with pytest.raises(TrustedTierUnavailable):
        directory.publish("clicks", (replace(keys[0], public_key="11"),))
    trusted.is_there = True
    clock.now += RETRY_SECONDS
    assert directory.publish("clicks", keys) == answer
