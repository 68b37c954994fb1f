"""Rollout documents: what is signed is what is read, and nothing else is."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pocketfl.database import Database
from pocketfl.decoding import encode_json
from pocketfl.errors import RolloutError
from pocketfl.plan import generate_signing_key, public_key_hex
from pocketfl.protocol import ROLLOUT_LIMIT
from pocketfl.rollout import (
    Bucket,
    Channel,
    Rollout,
    RolloutBook,
    RolloutModel,
    is_older_plan,
    load_rollout,
)
from pocketfl.sampling import keyed_uniform

KEY, STRANGER = generate_signing_key(), generate_signing_key()
TRUSTED = frozenset({bytes.fromhex(public_key_hex(KEY))})
DIGESTS = st.binary(min_size=32, max_size=32).map(bytes.hex)
MODELS = st.builds(
    RolloutModel,
    version=st.integers(0, 2**31 - 1),
    task=st.sampled_from([None, "other"]),
    plan_sha256=DIGESTS,
    parameters_sha256=DIGESTS,
)
ROLLOUTS = st.builds(
    Rollout,
    task=st.just("digits"),
    sequence=st.integers(1, 2**53),
    stable=MODELS,
    channels=st.lists(
        st.builds(
            Channel,
            name=st.sampled_from(["canary", "beta", "staff"]),
            share=st.floats(0, 1),
            model=MODELS,
        ),
        max_size=3,
        unique_by=lambda channel: channel.name,
    ).map(tuple),
    minimum_plan_version=st.sampled_from([None, "2", "1.10"]),
    rolls_back=st.booleans(),
    salt=st.sampled_from(["", "july"]),
)
MODEL = RolloutModel(version=1, plan_sha256="a" * 64, parameters_sha256="b" * 64)
ROLLOUT = Rollout(task="digits", sequence=3, stable=MODEL)


@given(ROLLOUTS)
def test_a_document_is_read_as_it_was_signed(rollout: Rollout) -> None:
    """Signing and reading are inverse to each other."""
    assert load_rollout(rollout.sign(KEY), trusted_keys=TRUSTED) == rollout


@given(ROLLOUTS, st.data())
def test_a_document_with_one_byte_changed_is_refused(rollout: Rollout, data: st.DataObject) -> None:
    """Every byte counts, the magic line and the key included."""
    signed = bytearray(rollout.sign(KEY))
    place = data.draw(st.integers(0, len(signed) - 1))
    signed[place] ^= data.draw(st.integers(1, 255))
    with pytest.raises(RolloutError):
        load_rollout(bytes(signed), trusted_keys=TRUSTED)


def test_only_trusted_keys_speak_and_only_as_rollouts() -> None:
    """A stranger's signature counts for nothing, nor does one that was made for something else."""
    with pytest.raises(RolloutError, match="which is not trusted"):
        load_rollout(ROLLOUT.sign(STRANGER), trusted_keys=TRUSTED)
    body = encode_json(ROLLOUT)
    as_plans_are_signed = bytes.fromhex(public_key_hex(KEY)) + KEY.sign(body) + body
    with pytest.raises(RolloutError, match="was changed afterwards"):
        load_rollout(b"PFL rollout 1\n" + as_plans_are_signed, trusted_keys=TRUSTED)
    with pytest.raises(RolloutError, match="no signed rollout"):
        load_rollout(ROLLOUT.sign(KEY) + bytes(ROLLOUT_LIMIT), trusted_keys=TRUSTED)


def test_nothing_is_parsed_before_its_signature_was_checked(monkeypatch) -> None:
    """A forged document does not reach the decoder."""
    monkeypatch.setattr("pocketfl.rollout.document.decode_json", None)
    with pytest.raises(RolloutError):
        load_rollout(ROLLOUT.sign(STRANGER), trusted_keys=TRUSTED)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stable": None}, "names a stable model, or says why"),
        ({"stopped": "broken"}, "names a stable model, or says why"),
        ({"sequence": 0}, "counts from 1"),
        ({"minimum_plan_version": "new"}, "numbers with dots"),
        ({"channels": (Channel(name="a", model=MODEL),) * 2}, "the same name"),
        ({"stable": None, "stopped": "x" * 201}, "1 to 200 printable"),
    ],
)
def test_a_document_that_makes_no_sense_cannot_be_made(changes, message) -> None:
    """Each record checks itself."""
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(ROLLOUT, **changes)


@pytest.mark.parametrize(
    ("version", "minimum", "older"),
    [("1.9", "1.10", True), ("2", "1.10", False), ("1.10.0", "1.10", False), ("beta", "1", True)],
)
def test_plan_versions_are_compared_number_by_number(version, minimum, older) -> None:
    """Not letter by letter, and what is no number is below all."""
    assert is_older_plan(version, minimum) is older


def test_ten_percent_of_the_buckets_are_below_a_tenth() -> None:
    """Of 20,000 devices; a fair draw is outside of 5 standard deviations once in two million runs."""
    secrets = (number.to_bytes(32, "big") for number in range(20_000))
    below = sum(keyed_uniform(secret, b"label", "digits", "") < 0.1 for secret in secrets)
    assert abs(below - 2000) < 5 * (20_000 * 0.1 * 0.9) ** 0.5


def test_a_bucket_stays_with_its_device_and_changes_with_the_salt(tmp_path) -> None:
    """Who is among the first tenth is so at every look, and also among the first half."""
    with Database(tmp_path / "device.db") as database:
        number = Bucket(database).of("digits", salt="")
        assert Bucket(database).of("digits", salt="") == number
        assert Bucket(database).of("digits", salt="july") != number


def test_a_book_never_goes_back(tmp_path) -> None:
    """Whatever is handed out again, also over a restart and after the signer's key was replaced."""
    first, second = (dataclasses.replace(ROLLOUT, sequence=n) for n in (1, 2))
    with Database(tmp_path / "device.db") as database:
        book = RolloutBook(database, trusted_keys=TRUSTED)
        book.accept("digits", first.sign(KEY))
        book.accept("digits", second.sign(KEY))
        book.accept("digits", second.sign(KEY))
        for replayed in (first, dataclasses.replace(second, salt="other")):
            with pytest.raises(RolloutError, match="this device has seen 2"):
                RolloutBook(database, trusted_keys=TRUSTED).accept("digits", replayed.sign(KEY))
        with pytest.raises(RolloutError, match="of task 'digits', not of 'words'"):
            book.accept("words", second.sign(KEY))
        assert book.all() == {"digits": second}
        changed = RolloutBook(
            database, trusted_keys=frozenset({bytes.fromhex(public_key_hex(STRANGER))})
        )
        assert changed.current("digits") is None
        with pytest.raises(RolloutError, match="this device has seen 2"):
            changed.accept("digits", first.sign(STRANGER))
