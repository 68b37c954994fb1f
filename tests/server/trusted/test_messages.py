"""What travels between back end and trusted tier is read strictly, and the two releases stay apart."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pocketfl.errors import DecodeError
from pocketfl_server.trusted import messages
from pocketfl_server.trusted.messages import SealedEntry, batches, decode_batch, encode_batch
from pocketfl_server.trusted.releases import (
    NoisedRelease,
    ReleaseSummary,
    UnprotectedRelease,
    decode_release,
    encode_release,
)

SUMMARY = ReleaseSummary(
    kind="noised",
    task="clicks",
    round=3,
    model_version=2,
    plan_sha256="a" * 64,
    policy_hash="b" * 64,
    reports=40,
    rejected={"cannot_open": 2},
    grid_step=1e-5,
    expected_cohort=50.0,
    noise_multiplier=1.0,
    epsilon=2.5,
    epsilon_against_back_end=8.0,
    delta=1e-5,
)
PLAIN = dataclasses.replace(
    SUMMARY,
    kind="unprotected",
    noise_multiplier=0.0,
    epsilon=None,
    epsilon_against_back_end=None,
    delta=None,
)

leases = st.text("abcdefXYZ019_-", min_size=16, max_size=128)
entries = st.lists(st.builds(SealedEntry, lease=leases, sealed=st.binary(max_size=200)), max_size=8)


@given(entries)
def test_batches_come_back_as_they_went(batch):
    """Any batch survives the wire."""
    assert list(decode_batch(encode_batch(batch))) == batch


@settings(max_examples=200)
@given(entries, st.data())
def test_damaged_batches_are_refused(batch, data):
    """Every truncation and every trailing byte is an error, never a shorter batch."""
    encoded = encode_batch(batch)
    cut = data.draw(st.integers(0, len(encoded) - 1))
    with pytest.raises(DecodeError):
        decode_batch(encoded[:cut])
    with pytest.raises(DecodeError):
        decode_batch(encoded + b"\0")


@given(st.binary(max_size=300))
def test_garbage_is_no_batch(garbage):
    """Arbitrary bytes after the right magic never raise anything but DecodeError."""
    for data in (garbage, b"PFB1" + garbage):
        try:
            decode_batch(data)
        except DecodeError:
            continue


def test_counts_and_sizes_are_bounded(monkeypatch):
    """A stated count above the limit is refused before anything is allocated."""
    with pytest.raises(DecodeError, match="more than"):
        decode_batch(b"PFB1" + (2**32 - 1).to_bytes(4, "little"))
    monkeypatch.setattr(messages, "BATCH_LIMIT", 100)
    with pytest.raises(DecodeError, match="100 allowed"):
        decode_batch(b"PFB1" + bytes(200))


@given(entries)
def test_splitting_loses_nothing(batch):
    """Batches are within both limits, in order and complete."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(messages, "MAX_BATCH_ENTRIES", 3)
        patch.setattr(messages, "BATCH_LIMIT", 500)
        split = list(batches(iter(batch)))
        assert [entry for part in split for entry in part] == batch
        assert all(0 < len(part) <= 3 for part in split)
        assert all(len(encode_batch(part)) <= 500 for part in split)


@pytest.mark.parametrize("lease", ["short", "with space in the lease", "ünïcödé-lease-of-a-device"])
def test_leases_are_tokens(lease):
    """A lease that is no token cannot enter a batch, from either side."""
    with pytest.raises(ValueError, match="lease"):
        SealedEntry(lease=lease, sealed=b"")
    raw = lease.encode()
    body = len(raw).to_bytes(2, "little") + (0).to_bytes(4, "little") + raw
    with pytest.raises(DecodeError, match="entry 0"):
        decode_batch(b"PFB1" + (1).to_bytes(4, "little") + body)


@given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=20))
def test_releases_come_back_as_they_went(values):
    """Values of the whole int64 range and the whole summary survive."""
    release = NoisedRelease(summary=SUMMARY, values=np.array(values, dtype=np.int64))
    back = decode_release(encode_release(release))
    assert isinstance(back, NoisedRelease)
    assert back.summary == SUMMARY
    assert back.values.tolist() == values
    assert back.epsilon == 2.5
    assert not back.values.flags.writeable


def test_the_two_releases_cannot_be_confused():
    """Each type takes only its own summary, and a summary cannot claim what it has not."""
    values = np.zeros(2, dtype=np.int64)
    back = decode_release(encode_release(UnprotectedRelease(summary=PLAIN, values=values.copy())))
    assert isinstance(back, UnprotectedRelease)
    assert not isinstance(back, NoisedRelease)
    assert back.epsilon is None
    with pytest.raises(ValueError, match="cannot make"):
        NoisedRelease(summary=PLAIN, values=values)
    with pytest.raises(ValueError, match="cannot make"):
        UnprotectedRelease(summary=SUMMARY, values=values)
    for claim in ({"epsilon": 1.0}, {"delta": 1e-5}, {"noise_multiplier": 1.0}):
        with pytest.raises(ValueError, match="noised release"):
            dataclasses.replace(PLAIN, **claim)
    with pytest.raises(ValueError, match="noised release"):
        dataclasses.replace(SUMMARY, epsilon=None)
    with pytest.raises(ValueError, match="int64"):
        NoisedRelease(summary=SUMMARY, values=np.zeros(2))


def test_damaged_releases_are_refused():
    """A cut, a wrong magic or an edited header never becomes a release."""
    data = encode_release(NoisedRelease(summary=SUMMARY, values=np.arange(3)))
    for damaged in (
        data[:-1],
        data[:-24],
        data[:50],
        b"",
        b"????" + data[4:],
        data.replace(b'"noised"', b'"xoised"'),
        data[:4] + (2**31).to_bytes(4, "little") + data[8:],
    ):
        with pytest.raises(DecodeError):
            decode_release(damaged)
