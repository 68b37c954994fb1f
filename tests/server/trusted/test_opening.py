"""The tier opens, with another library, exactly what a device seals."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pocketfl.sealing import ReportContext, generate_key_pair, key_id, open_sealed, seal
from pocketfl_server.trusted.opening import _SUITE, Opener

PRIVATE, PUBLIC = generate_key_pair()
CONTEXT = ReportContext(
    key_id=key_id(PUBLIC),
    policy_hash="ab" * 32,
    plan_sha256="cd" * 32,
    task="clicks",
    round=3,
    model_version=2,
    lease="lease-" + "x" * 16,
)


@settings(deadline=None, max_examples=50)
@given(
    plaintext=st.binary(max_size=2000), lease=st.from_regex(r"[A-Za-z0-9_-]{16,40}", fullmatch=True)
)
def test_both_libraries_speak_the_same_hpke(plaintext, lease) -> None:
    """RFC 9180 in both directions, under the context of any lease."""
    context = dataclasses.replace(CONTEXT, lease=lease)
    assert CONTEXT.info_for(lease) == context.info()
    sealed = seal(PUBLIC, info=context.info(), plaintext=plaintext)
    assert Opener(PRIVATE, CONTEXT).open(lease, sealed) == plaintext
    public = Opener(PRIVATE, CONTEXT)._key.public_key()
    other = _SUITE.encrypt(plaintext, public, context.info())
    assert open_sealed(PRIVATE, info=context.info(), sealed=other) == plaintext


@settings(deadline=None)
@given(sealed=st.binary(max_size=200))
def test_hostile_bytes_do_not_open(sealed) -> None:
    """Whatever arrives, it opens or it is None; nothing is raised."""
    assert Opener(PRIVATE, CONTEXT).open(CONTEXT.lease, sealed) is None


@pytest.mark.parametrize("point", [bytes(32), b"\1" + bytes(31), b"\xff" * 32])
def test_points_of_small_order_do_not_open(point) -> None:
    """The exchange with them would give a key that everybody knows."""
    assert Opener(PRIVATE, CONTEXT).open(CONTEXT.lease, point + bytes(48)) is None


@pytest.mark.parametrize(
    "change", [{"round": 4}, {"task": "views"}, {"policy_hash": "ef" * 32}, {"model_version": 3}]
)
def test_a_report_of_another_context_does_not_open(change) -> None:
    """Nor does one of another lease, or another key."""
    sealed = seal(PUBLIC, info=CONTEXT.info(), plaintext=b"report")
    assert Opener(PRIVATE, CONTEXT).open(CONTEXT.lease, sealed) == b"report"
    moved = Opener(PRIVATE, dataclasses.replace(CONTEXT, **change))
    assert moved.open(CONTEXT.lease, sealed) is None
    assert Opener(PRIVATE, CONTEXT).open("another-lease-0123", sealed) is None
    assert Opener(generate_key_pair()[0], CONTEXT).open(CONTEXT.lease, sealed) is None
