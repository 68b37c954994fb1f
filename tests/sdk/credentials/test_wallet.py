"""The device's stock: fetched once, spent once, kept over crashes and lost answers."""

from __future__ import annotations

from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from pocketfl.credentials.directory import KeyDirectory, empty_directory, heads_of
from pocketfl.credentials.tokens import challenge, encode_key, read_request, verify_token
from pocketfl.credentials.wallet import _WALLET, REFILL_SECONDS, Wallet
from pocketfl.device import Device
from pocketfl.errors import (
    AggregatorRefusedError,
    CredentialError,
    KeyConsistencyError,
    TransportError,
)
from pocketfl.plan import generate_signing_key, public_key_hex
from pocketfl.protocol import AggregatorKey, TokenKey, TokenKeys
from pocketfl.sealing import PinnedAggregator
from pocketfl.store import ExampleStore
from pocketfl.transport import Traffic
from pocketfl_server.credentials.signing import blind_sign

KEYS = {number: rsa.generate_private_key(65537, 2048) for number in range(1, 5)}


POLICY = "3" * 64


class TrustsEverything:
    """Stands in for the attestation, which has tests of its own."""

    def verify_token_keys(self, key, *, policy_hash, head) -> None:
        assert policy_hash == POLICY


class Signer:
    """A line to a back end that signs for one device; its answers can get lost."""

    def __init__(self) -> None:
        self.rounds = [1, 2, 3]
        self.span = 1
        self.separation = 1
        self.next_round: int | None = None
        self.traffic = Traffic()
        self.asked: dict[int, bytes] = {}
        self.loses_answers = False
        self.key = lambda number: KEYS[number]

    def token_keys(self, task):
        return TokenKeys(
            task=task,
            next_round=self.next_round or self.rounds[0],
            separation=self.separation,
            keys=tuple(map(self.token_key, self.rounds)),
            # All that this signer ever announces begins with the first.
            start=heads_of(
                empty_directory(task), map(self.token_key, range(1, self.rounds[0], self.span))
            )[-1],
            policy_hash=POLICY,
            aggregator=AggregatorKey(key_id="1" * 64, public_key="2" * 64),
        )

    def token_key(self, first):
        return TokenKey(
            first_round=first,
            last_round=first + self.span - 1,
            public_key=encode_key(self.key(first).public_key()).hex(),
        )

    def sign_token(self, token, task, round, request):  # noqa: A002
        assert token == "device-token"
        if self.asked.setdefault(round, request) != request:
            raise TransportError("had one", status=409, code="token_issued")
        if self.loses_answers:
            raise TransportError("cut off")
        encoded = encode_key(self.key(round).public_key())
        return blind_sign(self.key(round), read_request(request, encoded))


class Clock:
    now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def signer() -> Signer:
    return Signer()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def open_wallet(tmp_path, signer, clock):
    """Opens the wallet of one device, again as after a restart."""
    stores = []

    def open_one() -> Wallet:
        store = ExampleStore(tmp_path / "device.db")
        stores.append(store)
        return Wallet(
            store.database,
            signer,
            directory=KeyDirectory(TrustsEverything(), store.database),
            device_token=lambda: "device-token",
            clock=clock,
            uniform=lambda low, high: low,
        )

    yield open_one
    for store in stores:
        store.close()


def test_each_token_is_handed_out_once(open_wallet) -> None:
    """What was fetched verifies for its round, and is gone once it was taken, over restarts."""
    wallet = open_wallet()
    assert wallet.refill("clicks") == 3
    assert wallet.refill("clicks") == 0
    token = wallet.take("clicks", 1)
    encoded = encode_key(KEYS[1].public_key())
    assert verify_token(token, encoded, challenge("clicks", 1, 1)) == token[2:34]
    assert open_wallet().take("clicks", 1) is None
    assert open_wallet().count("clicks") == 2
    # One that was shown and gave no place is had again.
    assert wallet.take("clicks", 3) is not None
    assert wallet.count("clicks") == 1
    wallet.put_back("clicks", 3)
    assert open_wallet().take("clicks", 3) is not None


def test_a_lost_answer_is_asked_for_again(open_wallet, signer) -> None:
    """The request is on disk before it is sent, so the same one is sent again and answered."""
    signer.loses_answers = True
    with pytest.raises(TransportError, match="cut off"):
        open_wallet().refill("clicks")
    signer.loses_answers = False
    assert open_wallet().refill("clicks") == 3
    assert len(signer.asked) == 3


def test_a_lost_request_costs_one_round(open_wallet, signer) -> None:
    """A device that lost its file had its token: that round goes without, the others do not."""
    signer.asked[2] = b"what the lost file had"
    wallet = open_wallet()
    assert wallet.refill("clicks") == 2
    assert wallet.take("clicks", 1) is not None
    assert wallet.take("clicks", 2) is None
    assert wallet.take("clicks", 3) is not None


def test_nothing_is_asked_for_under_another_key(open_wallet, signer) -> None:
    """A request waits for the key that this device saw first; a second one is refused."""
    signer.loses_answers = True
    with pytest.raises(TransportError):
        open_wallet().refill("clicks")
    signer.loses_answers = False
    signer.asked.clear()
    signer.key = lambda number: KEYS[number + 1]
    with pytest.raises(KeyConsistencyError, match="two sets"):
        open_wallet().refill("clicks")
    assert signer.asked == {}


def test_a_signer_that_cheats_is_found_out(open_wallet, signer) -> None:
    """A signature by another key than the announced one never becomes a token."""

    def cheat(token, task, number, request):
        blinded = read_request(request, encode_key(KEYS[number].public_key()))
        # The other modulus may be the smaller one.
        modulus = KEYS[4].public_key().public_numbers().n
        reduced = int.from_bytes(blinded, "big") % modulus
        return blind_sign(KEYS[4], reduced.to_bytes(len(blinded), "big"))

    signer.sign_token = cheat
    wallet = open_wallet()
    with pytest.raises(CredentialError, match="wrong"):
        wallet.refill("clicks")
    assert wallet.count("clicks") == 0


def test_refills_come_when_few_are_left_and_time_has_passed(open_wallet, signer, clock) -> None:
    """At once when there never were any; later only after the drawn time, and when few are left."""
    wallet = open_wallet()
    assert wallet.is_due("clicks")
    signer.rounds = [1, 2, 3, 4]
    wallet.refill("clicks")
    assert not wallet.is_due("clicks")
    clock.now += REFILL_SECONDS[0]
    assert not wallet.is_due("clicks")
    wallet.take("clicks", 1)
    assert wallet.is_due("clicks")
    assert open_wallet().is_due("clicks")
    # A clock that was set back by a year does not keep the device waiting for a year.
    wallet.refill("clicks")
    wallet.take("clicks", 2)
    clock.now -= 365 * 86_400
    assert wallet.is_due("clicks")


def test_keys_of_past_rounds_are_forgotten(open_wallet, signer) -> None:
    """Tokens that nobody can use any more do not pile up."""
    wallet = open_wallet()
    wallet.refill("clicks")
    signer.rounds = [4]
    wallet.refill("clicks")
    assert wallet.take("clicks", 2) is None
    assert wallet.count("clicks") == 2


def test_epochs_lie_as_far_apart_as_they_must(open_wallet, signer) -> None:
    """Two rounds to an epoch, three between check-ins: every third of the small epochs, or fewer."""
    signer.span, signer.separation, signer.rounds = 2, 4, [1, 3, 5, 7, 9, 11]
    signer.key = lambda first: KEYS[1 + first % 4]
    wallet = open_wallet()
    assert wallet.refill("clicks") == 2
    assert wallet.refill("clicks") == 0
    (one, other) = sorted(signer.asked)
    assert other - one == 6
    # In any one round of its epoch, and once.
    assert wallet.take("clicks", one + 2) is None
    assert wallet.take("clicks", one + 1) is not None
    assert wallet.take("clicks", one) is None
    # What it had counts for what it may have, also when the epoch is over.
    signer.rounds, signer.next_round = [other, other + 2, other + 4, other + 6], other + 1
    assert open_wallet().refill("clicks") == 1
    assert sorted(signer.asked) == [one, other, other + 6]


def test_a_fleet_begins_with_different_epochs(tmp_path, signer, clock) -> None:
    """Devices of one day do not all have tokens for the same epochs (false alarm: 1 in 2**19)."""
    signer.span, signer.separation, signer.rounds = 1, 2, [1, 2]
    first = set()
    for number in range(20):
        signer.asked.clear()
        with ExampleStore(tmp_path / f"{number}.db") as store:
            Wallet(
                store.database,
                signer,
                directory=KeyDirectory(TrustsEverything(), store.database),
                device_token=lambda: "device-token",
                clock=clock,
            ).refill("clicks")
        first |= set(signer.asked)
    assert first == {1, 2}


def test_the_key_is_looked_at_again_before_a_token_is_shown(open_wallet, signer) -> None:
    """Whoever shows another key then than at the fetching is found out, and sees no token."""
    wallet = open_wallet()
    assert wallet.check("clicks", 1, policy_hash=POLICY) is None
    wallet.refill("clicks")
    assert wallet.check("clicks", 1, policy_hash=POLICY) == "1" * 64
    with pytest.raises(KeyConsistencyError, match="another policy"):
        wallet.check("clicks", 1, policy_hash="4" * 64)
    signer.key = lambda number: KEYS[number + 1]
    with pytest.raises(KeyConsistencyError, match="two sets"):
        wallet.check("clicks", 1, policy_hash=POLICY)
    assert wallet.count("clicks") == 3


def test_keys_that_nobody_vouches_for_are_refused(tmp_path, signer) -> None:
    """A pinned key vouches for no token keys, and a device without a trusted tier refuses them all."""
    plan_keys = [public_key_hex(generate_signing_key())]
    with ExampleStore(tmp_path / "device.db") as store:
        with pytest.raises(ValueError, match="also verifies token keys"):
            Device(
                store,
                server=signer,
                plan_keys=plan_keys,
                aggregator=PinnedAggregator("1" * 64),
                anonymous=True,
            )
        with (
            Device(store, server=signer, plan_keys=plan_keys, anonymous=True) as device,
            pytest.raises(AggregatorRefusedError, match="no trusted tier is configured"),
        ):
            device.fetch_tokens("clicks")
    assert signer.asked == {}


def test_tokens_of_an_earlier_version_are_good_for_their_round(tmp_path, open_wallet) -> None:
    """A file from before there were epochs keeps what was fetched."""
    with ExampleStore(tmp_path / "device.db") as store:
        store.database.ensure(replace(_WALLET, steps=_WALLET.steps[:1]))
        with store.database.transaction() as connection:
            connection.execute(
                "INSERT INTO anonymous_tokens VALUES ('clicks', 2, x'00', x'00', x'00', NULL, x'07')"
            )
    wallet = open_wallet()
    assert (wallet.take("clicks", 1), wallet.take("clicks", 2)) == (None, b"\7")
