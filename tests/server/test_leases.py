"""Leases: recognised without being kept, impossible to forge or to spell in two ways."""

from __future__ import annotations

import secrets

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pocketfl.protocol import check_token
from pocketfl_server.leases import LEASE_CHARACTERS, is_genuine, new_lease, round_of

ROUND = bytes(range(8))
KEY = bytes(range(32))


def test_a_lease_is_recognised_by_its_round_s_secret_only() -> None:
    """It names its round, passes with the right secret and with no other."""
    lease = new_lease(ROUND, KEY)
    assert check_token(lease, what="lease") == lease
    assert round_of(lease) == ROUND
    assert is_genuine(lease, KEY)
    assert not is_genuine(lease, secrets.token_bytes(32))


def test_leases_differ() -> None:
    """Each has 144 random bits of its own."""
    assert len({new_lease(ROUND, KEY) for _ in range(1000)}) == 1000


@given(st.integers(0, LEASE_CHARACTERS - 1), st.characters())
def test_no_other_text_is_the_same_lease(position: int, character: str) -> None:
    """Any change of any character gives a text that is not genuine, so no lease has two names."""
    lease = new_lease(ROUND, KEY)
    changed = lease[:position] + character + lease[position + 1 :]
    assert is_genuine(changed, KEY) == (changed == lease)


@pytest.mark.parametrize("garbage", ["", "a", "=" * 56, "a" * 55, "a" * 57, "é" * 56, "+/" * 28])
def test_garbage_is_no_lease(garbage: str) -> None:
    """Texts of another form name no round."""
    assert round_of(garbage) is None
    assert not is_genuine(garbage, KEY)


def test_the_other_base64_alphabet_is_refused() -> None:
    """A decoder that took '+' for '-' would give one lease two spellings, and two reports."""
    lease = next(lease for lease in (new_lease(ROUND, KEY) for _ in range(1000)) if "-" in lease)
    assert not is_genuine(lease.replace("-", "+"), KEY)
