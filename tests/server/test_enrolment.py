"""Enrolment: the app's key opens the door once, the token is known by its hash alone."""

from __future__ import annotations

import pytest

from pocketfl.protocol import EnrolmentRequest
from pocketfl_server.database import metadata
from pocketfl_server.enrolment import Enrolments
from pocketfl_server.errors import Malformed, NotAuthenticated

from .conftest import AVERAGING, CHECK_IN, ENROLMENT_KEY, everything_in


def test_a_token_is_stored_as_a_hash_only(back_end, tmp_path) -> None:
    """Neither a table nor, on SQLite, any file of the database holds the token."""
    token = back_end.enrol(ENROLMENT_KEY, EnrolmentRequest(user="ada", sdk="0.1.0")).token
    assert token not in repr(everything_in(back_end))
    for path in tmp_path.glob("back_end.db*"):
        assert token.encode() not in path.read_bytes()


def test_every_enrolment_gives_another_token(back_end) -> None:
    """Two devices of one user are two devices."""
    request = EnrolmentRequest(user="ada", sdk="0.1.0")
    assert len({back_end.enrol(ENROLMENT_KEY, request).token for _ in range(20)}) == 20


def test_a_wrong_enrolment_key_enrols_nobody(back_end) -> None:
    """Refused with its own code, and nothing is written."""
    before = everything_in(back_end)
    for key in ["", "wrong", ENROLMENT_KEY + " ", ENROLMENT_KEY.upper(), "é" * 20]:
        with pytest.raises(NotAuthenticated) as caught:
            back_end.enrol(key, EnrolmentRequest(user="ada", sdk="0.1.0"))
        assert caught.value.code == "wrong_enrolment_key"
    assert everything_in(back_end) == before


def test_an_impossible_user_is_refused(back_end) -> None:
    """Text that not every database can hold never gets there."""
    for user in ["", "x" * 257, "a\0b", "\ud800"]:
        with pytest.raises(Malformed, match="user"):
            back_end.enrol(ENROLMENT_KEY, EnrolmentRequest(user=user, sdk="0.1.0"))


def test_an_enrolment_key_has_to_be_long() -> None:
    """A short one could be guessed, so the back end does not start with it."""
    with pytest.raises(ValueError, match="16 characters"):
        Enrolments(enrolment_key="short")


def test_a_wrong_token_checks_nobody_in(back_end, make_plan) -> None:
    """Authentication comes first: the same answer whether the round exists or not."""
    back_end.create_task("clicks", make_plan().data, optimizer=AVERAGING)
    back_end.open_round("clicks", seconds=60)
    before = everything_in(back_end)
    for task, number in (("clicks", 1), ("clicks", 2), ("nothing", 1)):
        with pytest.raises(NotAuthenticated) as caught:
            back_end.check_in("x" * 43, task, number, CHECK_IN)
        assert caught.value.code == "unknown_token"
    assert everything_in(back_end) == before


def test_nothing_joins_check_ins_with_leases(back_end, fleet, make_plan) -> None:
    """What is stored at a check-in is the round and the hash of the token: no lease, time or order."""
    back_end.create_task("clicks", make_plan().data, optimizer=AVERAGING)
    back_end.open_round("clicks", seconds=60)
    fleet.token("ada")
    enrolled = everything_in(back_end)
    assignment = fleet.check_in("ada", "clicks", 1)
    after = everything_in(back_end)
    changed = {name for name in after if after[name] != enrolled[name]}
    assert changed == {"check_ins"}
    assert assignment.lease not in repr(after)
    assert set(metadata.tables["check_ins"].columns.keys()) == {"round_id", "device"}
    # Issued tokens are blinded, and so on the devices' side: who got one, and not which.
    knows_devices = {"devices", "check_ins", "issued_tokens"}
    for name, table in metadata.tables.items():
        if name == "access_tokens":  # of operators
            continue
        columns = set(table.columns.keys())
        assert bool(columns & {"device", "token_sha256"}) == (name in knows_devices)
        assert ("lease" in columns) == (name == "reports")
