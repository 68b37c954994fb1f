"""What a device remembers of its sessions: one row each, all of it or nothing, gone at the end."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pocketfl.database import Database
from pocketfl.device.sessions import Session, Sessions
from pocketfl.errors import ReportError
from pocketfl.protocol import AggregatorKey, Assignment, RoundNotice
from pocketfl.reports import make_report
from pocketfl.sealing import ReportContext, generate_key_pair, key_id
from pocketfl.training import Checkpoint, TrainingState


def make_session(number: int = 1, *, task: str = "trips", seed: int = 5, ids: int = 20) -> Session:
    shared = {
        "task": task,
        "round": number,
        "plan_sha256": "a" * 64,
        "parameters_sha256": "b" * 64,
        "model_version": 3,
    }
    aggregator = AggregatorKey(key_id="c" * 64, public_key="d" * 64)
    return Session(
        notice=RoundNotice(closes_at=9.5, **shared),
        assignment=Assignment(lease="l" * 20, expires_at=8.25, aggregator=aggregator, **shared),
        collection="trips",
        seed=seed,
        examples_up_to=ids,
        began_at=1.5,
    )


def seal(plan, lease: str):
    _, public = generate_key_pair()
    context = ReportContext(
        key_id=key_id(public),
        policy_hash=plan.manifest.policy_hash,
        plan_sha256=plan.sha256,
        task="trips",
        round=1,
        model_version=3,
        lease=lease,
    )
    count = plan.manifest.model.parameter_count
    return make_report(np.ones(count), plan=plan, context=context, public_key=public)


def checkpoint(steps: int) -> Checkpoint:
    state = TrainingState(losses=tuple(map(float, range(steps))))
    return Checkpoint(fingerprint="f", state=state, parameters=np.ones(3, np.float32))


@pytest.fixture
def database(tmp_path):
    with Database(tmp_path / "device.db") as opened:
        yield opened


@settings(max_examples=30)
@given(number=st.integers(1, 2**62), seed=st.integers(0, 2**63 - 1), ids=st.integers(0, 2**63 - 1))
def test_a_session_comes_back_as_it_was(tmp_path_factory, number, seed, ids) -> None:
    """In another process, whatever its numbers."""
    path = tmp_path_factory.mktemp("sessions") / "device.db"
    session = make_session(number, seed=seed, ids=ids)
    with Database(path, durable=False) as database:
        Sessions(database).begin(session)
    with Database(path, durable=False) as database:
        (pending,) = Sessions(database).pending()
    assert pending.session == session
    assert (pending.tries, pending.has_report) == (0, False)


def test_a_device_that_never_had_a_lease_has_no_tables(database) -> None:
    """Looking for sessions writes nothing."""
    assert Sessions(database).pending() == ()
    assert not database.query("SELECT 1 FROM sqlite_schema WHERE name = 'sessions'")


def test_sessions_come_oldest_first_and_end_alone(database) -> None:
    """Ending one leaves the others, and ending it again says so."""
    sessions = Sessions(database)
    for number, task in ((4, "b"), (2, "a"), (3, "a")):
        sessions.begin(make_session(number, task=task))
    assert [(p.task, p.round) for p in sessions.pending()] == [("b", 4), ("a", 2), ("a", 3)]
    assert sessions.end("a", 2)
    assert not sessions.end("a", 2)
    assert [(p.task, p.round) for p in sessions.pending()] == [("b", 4), ("a", 3)]


def test_a_checkpoint_replaces_the_one_before_and_counts_as_progress(database) -> None:
    """The last one comes back; runs without progress are counted from zero again."""
    sessions, session = Sessions(database), make_session()
    sessions.begin(session)
    assert sessions.checkpoint(session) is None
    sessions.count_try(session, change=1)
    sessions.count_try(session, change=1)
    assert sessions.pending()[0].tries == 2
    for steps in (1, 4):
        sessions.keep_checkpoint(session, checkpoint(steps))
    kept = sessions.checkpoint(session)
    assert kept is not None
    assert kept.state.steps == 4
    assert sessions.pending()[0].tries == 0
    sessions.count_try(session, change=-1)
    assert sessions.pending()[0].tries == 0


def test_the_first_report_stays_and_ends_training(database, plan) -> None:
    """A second one is not kept, so it is not sent; the checkpoint is no longer needed."""
    sessions, session = Sessions(database), make_session()
    sessions.begin(session)
    sessions.keep_checkpoint(session, checkpoint(2))
    first, second = (seal(plan, session.assignment.lease) for _ in range(2))
    assert sessions.keep_report(session, first)
    assert not sessions.keep_report(session, second)
    assert sessions.report(session).data == first.data
    assert sessions.checkpoint(session) is None
    assert sessions.pending()[0].has_report


def test_nothing_is_kept_for_a_session_that_has_ended(database, plan) -> None:
    """Neither a report nor a checkpoint brings back what a revocation removed."""
    sessions, session = Sessions(database), make_session()
    sessions.begin(session)
    sessions.end(session.task, session.round)
    assert not sessions.keep_report(session, seal(plan, session.assignment.lease))
    sessions.keep_checkpoint(session, checkpoint(2))
    assert sessions.checkpoint(session) is None
    assert not sessions.is_open(session)
    with pytest.raises(ReportError, match="damaged"):
        sessions.report(session)


@pytest.mark.parametrize(
    ("column", "value"),
    [("record", b"{}"), ("record", b"\xff"), ("record", 7), ("round", 9), ("task", "other")],
)
def test_a_damaged_record_is_known_as_such(database, column, value) -> None:
    """A row that does not say what it is under its own name is no session."""
    sessions = Sessions(database)
    sessions.begin(make_session())
    with database.transaction() as connection:
        connection.execute(f"UPDATE sessions SET {column} = ?", (value,))
    (pending,) = sessions.pending()
    assert pending.session is None
