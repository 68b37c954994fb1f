"""The device's stock: fetched once, spent once, kept over crashes and lost answers."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from pocketfl.credentials.tokens import challenge, encode_key, read_request, verify_token
from pocketfl.credentials.wallet import REFILL_SECONDS, Wallet
from pocketfl.errors import CredentialError, TransportError
from pocketfl.protocol import TokenKey, TokenKeys
from pocketfl.store import ExampleStore
from pocketfl_server.credentials.signing import blind_sign

KEYS = {number: rsa.generate_private_key(65537, 2048) for number in range(1, 5)}


class Signer:
    """A line to a back end that signs for one device; its answers can get lost."""

    def __init__(self) -> None:
        self.rounds = [1, 2, 3]
        self.asked: dict[int, bytes] = {}
        self.loses_answers = False
        self.key = lambda number: KEYS[number]

    def token_keys(self, task):
        keys = tuple(
            TokenKey(round=n, public_key=encode_key(self.key(n).public_key()).hex())
            for n in self.rounds
        )
        return TokenKeys(task=task, keys=keys)

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
    assert verify_token(token, encoded, challenge("clicks", 1)) == token[2:34]
    assert open_wallet().take("clicks", 1) is None
    assert open_wallet().count("clicks") == 2
    # A round that was let pass takes its token along.
    assert wallet.take("clicks", 3) is not None
    assert wallet.count("clicks") == 0


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


def test_another_key_means_another_request(open_wallet, signer) -> None:
    """A request that waits for a key that is gone is not mixed up with the new one."""
    signer.loses_answers = True
    with pytest.raises(TransportError):
        open_wallet().refill("clicks")
    signer.loses_answers = False
    signer.asked.clear()
    signer.key = lambda number: KEYS[number + 1]
    wallet = open_wallet()
    assert wallet.refill("clicks") == 3
    token = wallet.take("clicks", 1)
    verify_token(token, encode_key(KEYS[2].public_key()), challenge("clicks", 1))


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
