"""Receipts settle once and account for every byte, whatever is rolled back or restarted."""

from __future__ import annotations

import tempfile
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pocketfl.database import Database
from pocketfl.errors import StoreError
from pocketfl.receipts import Contribution, PrivacyLoss, Receipts
from pocketfl.receipts.book import MAX_SESSIONS
from pocketfl.reports import make_report
from pocketfl.sealing import ReportContext, generate_key_pair, key_id
from pocketfl.transport import REQUEST_KINDS, Traffic

from .conftest import CONTRIBUTION, NOW, Wire, contribution

ROUND = {"task": "clicks", "round": 3}


def test_a_contribution_is_prepared_and_accepted(open_book, wire) -> None:
    """The receipt says all that was stated, what became of it, and what its upload cost."""
    book = open_book(wire)
    wire.carry("check_in", up=300, down=400)
    prepared = book.prepare(CONTRIBUTION)
    assert book.find(**ROUND) == prepared
    assert (prepared.outcome, prepared.prepared_at, prepared.settled_at) == ("prepared", NOW, None)
    for name, value in vars(CONTRIBUTION).items():
        assert getattr(prepared, name) == value, name
    wire.carry("upload", up=500, down=90)
    accepted = book.accept(**ROUND)
    assert book.find(**ROUND) == accepted
    assert (accepted.outcome, accepted.code, accepted.settled_at) == ("accepted", None, NOW)
    assert (accepted.uploads, accepted.bytes_up, accepted.bytes_down) == (1, 500, 90)
    audit = book.audit()
    assert audit.receipts == (accepted,)
    assert [(o.kind, o.requests, o.bytes_up, o.bytes_down) for o in audit.overhead] == [
        ("check_in", 1, 300, 400)
    ]
    assert (audit.requests, audit.bytes_up, audit.bytes_down) == (2, 800, 490)


def test_a_receipt_survives_the_process(open_book, wire, path) -> None:
    """What was prepared before a restart is settled after it, by a transport that counts from zero."""
    first = open_book(wire)
    first.prepare(CONTRIBUTION)
    wire.carry("upload", up=500)
    first.account(**ROUND)
    fresh = Wire()
    with Database(path) as database:
        second = Receipts(database, traffic=fresh, clock=lambda: NOW + 60)
        assert second.prepare(CONTRIBUTION).prepared_at == NOW
        fresh.carry("upload", up=500, down=80)
        settled = second.accept(**ROUND)
    assert (settled.uploads, settled.bytes_up, settled.bytes_down) == (2, 1000, 80)


def test_a_round_has_one_report(open_book) -> None:
    """Another report for the same round is refused before it could leave."""
    book = open_book()
    book.prepare(CONTRIBUTION)
    with pytest.raises(StoreError, match="one report per round"):
        book.prepare(contribution(report_sha256="d" * 64))


def test_settling_twice_changes_nothing(open_book) -> None:
    """The answer to a repeated upload arrives again; the first settlement stands."""
    book = open_book()
    book.prepare(CONTRIBUTION)
    once = book.accept(**ROUND)
    assert book.accept(**ROUND) == once


@pytest.mark.parametrize("settled", ["accept", "reject", "abandon"])
@pytest.mark.parametrize("again", ["accept", "reject", "abandon", "lose"])
def test_an_outcome_does_not_change(open_book, settled, again) -> None:
    """Accepted, rejected and abandoned are final."""
    book = open_book()

    def settle(how: str) -> None:
        if how == "accept":
            book.accept(**ROUND)
        elif how == "reject":
            book.reject(**ROUND, code="round_closed")
        else:
            book.abandon(**ROUND, code="late", maybe_sent=how == "lose")

    book.prepare(CONTRIBUTION)
    settle(settled)
    before = book.find(**ROUND)
    if settled == again:
        settle(again)
    else:
        with pytest.raises(StoreError, match="cannot become"):
            settle(again)
    assert book.find(**ROUND) == before


@pytest.mark.parametrize("maybe_sent", [False, True])
def test_a_report_that_may_have_left_is_unknown(open_book, wire, maybe_sent) -> None:
    """Given up before the upload is abandoned; once bytes of it left, nobody can say so."""
    book = open_book(wire)
    book.prepare(CONTRIBUTION)
    given_up = book.abandon(**ROUND, code="lease_expired", maybe_sent=maybe_sent)
    assert given_up.outcome == ("unknown" if maybe_sent else "abandoned")
    assert given_up.code == "lease_expired"

    book.prepare(contribution(round=4))
    wire.carry("upload", up=70)
    cut = book.abandon(task="clicks", round=4, code="lease_expired", maybe_sent=False)
    assert (cut.outcome, cut.bytes_up) == ("unknown", 70)
    assert book.abandon(task="clicks", round=4, code="x", maybe_sent=False) == cut


def test_the_next_exchange_may_resolve_what_was_unknown(open_book) -> None:
    """A server that is asked again says whether it has the report."""
    book = open_book()
    for number, answer in ((3, "accepted"), (4, "rejected")):
        book.prepare(contribution(round=number))
        book.abandon(task="clicks", round=number, code="cut", maybe_sent=True)
        if answer == "accepted":
            resolved = book.accept(task="clicks", round=number)
        else:
            resolved = book.reject(task="clicks", round=number, code="lease_expired")
        assert resolved.outcome == answer


def test_what_was_never_prepared_is_no_contribution(open_book) -> None:
    """Giving up before there is a report leaves no receipt; settling one that is not there fails."""
    book = open_book()
    assert book.abandon(**ROUND, code="interrupted", maybe_sent=False) is None
    for settle in (book.accept, lambda **which: book.reject(**which, code="gone")):
        with pytest.raises(StoreError, match="no receipt for round 3"):
            settle(**ROUND)
    assert book.audit().receipts == ()


def test_a_receipt_joins_the_device_s_transaction(open_book, database, wire) -> None:
    """Rolled back with the rest, and its bytes are written with the next receipt."""
    book = open_book(wire)
    book.account()
    wire.carry("check_in", up=300)
    with pytest.raises(RuntimeError), database.transaction():
        book.prepare(CONTRIBUTION)
        wire.carry("upload", up=100)
        book.accept(**ROUND)
        wire.carry("notices", up=5)
        book.account()
        raise RuntimeError
    assert book.find(**ROUND) is None
    book.prepare(CONTRIBUTION)
    assert book.audit().bytes_up == wire.total.bytes_up == 405


def test_uploads_that_nobody_owns_are_overhead(open_book, wire) -> None:
    """An upload without a receipt is listed all the same."""
    book = open_book(wire)
    wire.carry("upload", up=10)
    book.account(task="clicks", round=99)
    (item,) = book.audit().overhead
    assert (item.kind, item.bytes_up) == ("upload", 10)


def test_a_transport_that_does_not_tell_kinds_apart_is_accounted_for(open_book) -> None:
    """Its bytes are listed as other."""
    book = open_book(lambda: Traffic(bytes_up=100, bytes_down=1000, requests=2))
    book.account()
    book.account()
    (item,) = book.audit().overhead
    assert (item.kind, item.requests, item.bytes_up, item.bytes_down) == ("other", 2, 100, 1000)


def test_a_server_s_code_is_made_safe_to_show(open_book) -> None:
    """No escape sequences for a terminal, no endless text."""
    book = open_book()
    book.prepare(CONTRIBUTION)
    rejected = book.reject(**ROUND, code="\x1b[31mred" + "x" * 500)
    assert rejected.code.startswith("?[31mred")
    assert len(rejected.code) == 64


def test_many_sessions_leave_bounded_traces(open_book, database, wire) -> None:
    """The file does not grow with each start of the app, and an old process still counts right."""
    old = open_book(wire)
    wire.carry("notices", up=1)
    old.account()
    for _ in range(MAX_SESSIONS + 10):
        other = Wire()
        other.carry("notices", up=1)
        open_book(other).account()
    assert database.query("SELECT count(*) FROM accounted_traffic") == [(MAX_SESSIONS,)]
    wire.carry("notices", up=1)
    old.account()
    assert old.audit().bytes_up == MAX_SESSIONS + 12


@pytest.mark.parametrize(
    "changes",
    [
        {"epsilon": None},
        {"privacy": "none"},
        {"noise_multiplier": None, "epsilon": None, "epsilon_so_far": None},
    ],
)
def test_a_contribution_states_its_privacy_in_full_or_not_at_all(changes) -> None:
    """No half of a claim gets into the book."""
    with pytest.raises(ValueError, match="states its noise multiplier"):
        contribution(**changes)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -0.5])
def test_an_impossible_loss_is_refused(value) -> None:
    """A loss is a finite number that is not negative."""
    with pytest.raises(ValueError, match="epsilon_so_far"):
        PrivacyLoss(epsilon=1.0, epsilon_so_far=value, delta=1e-5)


def test_a_sealed_report_describes_itself(open_book, tiny_plan) -> None:
    """Everything but the loss and the attestation follows from plan, context and report."""
    _, public = generate_key_pair()
    context = ReportContext(
        key_id=key_id(public),
        policy_hash=tiny_plan.manifest.policy_hash,
        plan_sha256=tiny_plan.sha256,
        task="clicks",
        round=3,
        model_version=2,
        lease="lease-0123456789abcdef",
    )
    report = make_report(np.full(3, 0.1), plan=tiny_plan, context=context, public_key=public)
    loss = PrivacyLoss(epsilon=0.5, epsilon_so_far=1.5, delta=1e-5)
    stated = Contribution.of(
        report, plan=tiny_plan, context=context, attestation="pinned key", loss=loss
    )
    manifest = tiny_plan.manifest
    receipt = open_book().prepare(stated)
    assert receipt.report_bytes == len(report.data)
    assert receipt.report_sha256 == report.sha256
    assert receipt.plan_sha256 == tiny_plan.sha256
    assert receipt.clip_norm == manifest.aggregation.clip_norm
    assert receipt.cohort_floor == manifest.aggregation.cohort_floor
    assert receipt.noise_multiplier == manifest.dp.noise_multiplier
    assert (receipt.epsilon, receipt.epsilon_so_far, receipt.delta) == (0.5, 1.5, 1e-5)
    with pytest.raises(ValueError, match="states its noise multiplier"):
        Contribution.of(report, plan=tiny_plan, context=context, attestation="none", loss=None)


class RolledBackError(Exception):
    """Ends a transaction without a commit."""


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["carry", "account", "prepare", "accept", "rolled back", "restart"]),
        st.sampled_from(REQUEST_KINDS),
        st.integers(0, 1000),
        st.integers(0, 3),
    ),
    max_size=30,
)


@settings(max_examples=60, deadline=None)
@given(STEPS)
def test_every_byte_is_in_one_line_or_another(steps) -> None:
    """Receipts and overhead add up to the transports' counts under any interleaving of steps."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "device.db"
        database, wire = Database(file, durable=False), Wire()
        book = Receipts(database, traffic=wire, clock=lambda: NOW)
        ended = 0
        for action, kind, size, number in steps:
            which = {"task": "clicks", "round": number + 1}
            if action == "carry":
                wire.carry(kind, up=size, down=2 * size)
            elif action == "account":
                book.account(**which)
            elif action == "prepare":
                book.prepare(contribution(round=number + 1))
            elif action == "accept":
                if book.find(**which) is not None:
                    book.accept(**which)
            elif action == "rolled back":
                with suppress(RolledBackError), database.transaction():
                    for _ in range(number):
                        wire.carry(kind, up=size, down=2 * size)
                        book.account(**which)
                    raise RolledBackError
            else:
                book.account()
                ended += wire.total.bytes_up
                database.close()
                database, wire = Database(file, durable=False), Wire()
                book = Receipts(database, traffic=wire, clock=lambda: NOW)
        book.account()
        audit = book.audit()
        database.close()
    assert audit.bytes_up == ended + wire.total.bytes_up
    assert audit.bytes_down == 2 * audit.bytes_up
