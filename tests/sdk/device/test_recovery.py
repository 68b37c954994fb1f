"""What is put in order after a revocation, a crash, or damage to the store's file."""

from __future__ import annotations

import sqlite3

import numpy as np
import pytest

from pocketfl.budgets import Budgets, Limits
from pocketfl.database import LOST_AT_STATE, LOST_STATE, damage_mark
from pocketfl.device import SessionHooks
from pocketfl.device.recovery import HOLD_BACK_SECONDS, HoldBack, settle_orphans
from pocketfl.store import ExampleStore

from .conftest import COLLECTION, DAY, HOUR, NOW, Clock, Phone, unreachable


class StopAt(SessionHooks):
    """Stops once, before the batch with a number."""

    def __init__(self, number: int) -> None:
        self.left = number

    def should_stop(self) -> bool:
        self.left -= 1
        return self.left == 0


@pytest.fixture
def clock() -> Clock:
    return Clock()


def ledger_outcomes(store) -> list[str]:
    return [row[0] for row in store.database.query("SELECT outcome FROM ledger_entries")]


def fill(store) -> None:
    store.create_collection(COLLECTION)
    generator = np.random.default_rng(7)
    store.append(
        "trips",
        [
            {"x": x.astype(np.float32), "place": "JFK", "y": float(x[0])}
            for x in generator.normal(size=(20, 2))
        ],
        times=[NOW - 1000 + i for i in range(20)],
    )


def next_round(back_end, number: int = 2) -> None:
    back_end.round = number
    back_end.closes_at, back_end.lease_seconds = NOW + 30 * DAY, 30 * DAY


# Sessions that are gone.


@pytest.mark.parametrize("process", ["same", "next"])
def test_a_revoked_session_without_a_report_frees_its_budget(
    make_device, back_end, store, process
) -> None:
    """Nothing was sent, and the next session finds the contribution free, in either process."""
    budgets = Budgets(per_day=Limits(contributions=1))
    device = make_device(signals=Phone(), hooks=StopAt(4), budgets=budgets)
    assert device.run_once().resumable
    store.revoke("trips")
    assert ledger_outcomes(store) == ["open"]
    fill(store)
    next_round(back_end)
    if process == "next":
        device = make_device(signals=Phone(), budgets=budgets)
    assert device.run_once().status == "completed"
    assert ledger_outcomes(store) == ["unsent", "sent"]
    assert device.receipts.find(task="trips", round=1) is None


@pytest.mark.parametrize("process", ["same", "next"])
def test_a_revoked_report_that_may_have_been_sent_counts(
    make_device, back_end, store, clock, process
) -> None:
    """Account and receipt say unknown, and the contribution stays in the budget."""
    budgets = Budgets(per_day=Limits(contributions=1))
    settings = {"signals": Phone(), "budgets": budgets, "clock": clock}
    back_end.failures["upload"] = unreachable()
    device = make_device(**settings)
    assert device.run_once().resumable
    store.revoke("trips")
    back_end.failures.clear()
    fill(store)
    next_round(back_end)
    if process == "next":
        device = make_device(**settings)
    assert device.run_once().code == "budget"
    receipt = device.receipts.find(task="trips", round=1)
    assert (receipt.outcome, receipt.code) == ("unknown", "session_lost")
    assert ledger_outcomes(store) == ["unknown"]
    clock.now += DAY + 1
    assert device.run_once().status == "completed"
    assert ledger_outcomes(store) == ["unknown", "sent"]


def test_a_session_that_waits_is_no_orphan(make_device, back_end, store) -> None:
    """Another task's session begins, and neither account nor receipt of the waiting one is closed."""
    back_end.failures["upload"] = unreachable()
    device = make_device(signals=Phone())
    assert device.run_once().resumable
    back_end.failures.clear()
    back_end.task = "walks"
    device = make_device(signals=Phone())
    assert device.run_once(task="walks").status == "completed"
    assert device.receipts.find(task="trips", round=1).outcome == "prepared"
    assert ledger_outcomes(store) == ["open", "sent"]
    assert device.run_once().status == "completed"
    assert ledger_outcomes(store) == ["sent", "sent"]


@pytest.mark.parametrize(
    ("damage", "outcome", "receipt"),
    [
        # The session alone.
        (("DELETE FROM sessions",), "unknown", "unknown"),
        # Both, and it is known that a receipt may have been among what was lost.
        (("DELETE FROM sessions", "DELETE FROM receipts", "lost:receipts"), "unknown", None),
        # Both, though nothing is known to be lost: there never was a report.
        (("DELETE FROM sessions", "DELETE FROM receipts"), "unsent", None),
        # A later step is known from the receipt.
        (("DELETE FROM sessions", "UPDATE receipts SET outcome = 'accepted'"), "sent", "accepted"),
    ],
)
def test_salvaged_halves_are_settled_once(
    make_device, back_end, store, damage, outcome, receipt
) -> None:
    """What may have been sent counts; a second look finds nothing left to do."""
    back_end.failures["upload"] = unreachable()
    assert make_device(signals=Phone()).run_once().resumable
    with store.database.transaction() as connection:
        for statement in damage:
            if statement.startswith("lost:"):
                store.database.write_state(LOST_STATE, statement[5:].encode())
            else:
                connection.execute(statement)
    back_end.failures.clear()
    next_round(back_end)
    device = make_device(signals=Phone())
    assert device.run_once().status == "completed"
    assert ledger_outcomes(store) == [outcome, "sent"]
    kept = device.receipts.find(task="trips", round=1)
    assert (None if kept is None else kept.outcome) == receipt
    assert settle_orphans(store.database, ledger=device.ledger, receipts=device.receipts) == 0


def test_a_session_that_lost_its_receipt_ends_all_the_same(make_device, back_end, store) -> None:
    """The report is still sent once, and the way is free for the next round."""
    back_end.failures["upload"] = unreachable()
    assert make_device(signals=Phone()).run_once().resumable
    with store.database.transaction() as connection:
        connection.execute("DELETE FROM receipts")
        connection.execute("DELETE FROM ledger_entries")
    back_end.failures.clear()
    device = make_device(signals=Phone())
    assert device.run_once().status == "completed"
    assert device.pending == ()
    assert ledger_outcomes(store) == ["sent"]


# Memory that is gone.


def damage_table(path, table: str) -> None:
    """Overwrite the first pages of a table, and note the damage as whoever meets it does."""
    with sqlite3.connect(path) as connection:
        pages = connection.execute(
            "SELECT rootpage FROM sqlite_schema WHERE tbl_name = ? AND rootpage > 0", (table,)
        ).fetchall()
        size = connection.execute("PRAGMA page_size").fetchone()[0]
    connection.close()
    with path.open("r+b") as file:
        for (page,) in pages:
            file.seek((page - 1) * size)
            file.write(b"\xff" * size)
    damage_mark(path).touch()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "hit.db"


@pytest.mark.parametrize(
    "table", ["participations", "ledger_entries", "ledger_tasks", "device_state", "table_versions"]
)
def test_a_device_that_lost_its_memory_holds_back_for_a_day(
    make_device, back_end, clock, path, table
) -> None:
    """Over restarts, and with a reason; it does not contribute to the same round again meanwhile."""
    settings = {"signals": Phone(), "clock": clock}
    back_end.closes_at, back_end.lease_seconds = NOW + HOUR, HOUR
    with ExampleStore(path) as store:
        fill(store)
        assert make_device(store=store, **settings).run_once().status == "completed"
    damage_table(path, table)
    calls = list(back_end.calls)
    with ExampleStore(path) as store:
        assert table in store.quarantine.lost
        store.create_collection(COLLECTION)
        device = make_device(store=store, **settings)
        explanation = device.explain()
        assert not explanation.eligible
        assert "memory of earlier rounds lost" in str(explanation)
        assert explanation.next_attempt == NOW + DAY
        outcome = device.run_once()
        assert (outcome.status, outcome.code) == ("ineligible", "memory_lost")
        assert outcome.retry_after == DAY
    clock.now += HOUR * 23
    with ExampleStore(path) as store:
        assert store.quarantine is None
        device = make_device(store=store, **settings)
        assert device.run_once().retry_after == HOUR
        assert back_end.calls == calls
        assert len(back_end.reports) == 1
        clock.now += HOUR
        next_round(back_end)
        assert device.explain().eligible
        assert device.run_once().status == "completed"


@pytest.mark.parametrize("content", [b"no database at all" * 500])
def test_a_device_that_lost_everything_holds_back(
    make_device, back_end, clock, path, content
) -> None:
    """A fresh file knows of no round, so that nothing else keeps the device from a second report."""
    path.write_bytes(content)
    with ExampleStore(path) as store:
        fill(store)
        device = make_device(store=store, signals=Phone(), clock=clock)
        assert device.run_once().code == "memory_lost"
        assert device.run_due()[0].code == "memory_lost"
        assert back_end.calls == []
        clock.now += DAY
        next_round(back_end)
        assert device.run_once().status == "completed"


@pytest.mark.parametrize("table", ["receipts", "examples"])
def test_other_losses_do_not_hold_a_device_back(make_device, back_end, clock, path, table) -> None:
    """What says neither which rounds were taken part in nor what was spent may be lost."""
    with ExampleStore(path) as store:
        fill(store)
        device = make_device(store=store, signals=Phone(), clock=clock)
        assert device.run_once().status == "completed"
        # Many pages, so that the root page is not where all the rows are.
        fill_more(store)
    damage_table(path, table)
    next_round(back_end)
    with ExampleStore(path) as store:
        assert table in store.quarantine.lost
        store.create_collection(COLLECTION)
        if store.count("trips") == 0:
            store.append("trips", [{"x": np.ones(2, np.float32), "place": "JFK", "y": 1.0}])
        outcome = make_device(store=store, signals=Phone(), clock=clock).run_once()
        assert (outcome.status, outcome.round) == ("completed", 2)


def fill_more(store) -> None:
    store.append("trips", [{"x": np.ones(2, np.float32), "place": "JFK", "y": 1.0}] * 20)


def hold_back(store, *, at: str, lost: str, clock: Clock) -> HoldBack:
    store.database.write_state(LOST_AT_STATE, at.encode())
    store.database.write_state(LOST_STATE, lost.encode())
    return HoldBack(store.database, clock=clock)


def test_a_later_loss_begins_the_day_anew(store, clock) -> None:
    """And a later quarantine that lost nothing of the kind leaves it as it is."""
    assert hold_back(store, at="1", lost="participations", clock=clock).reasons()
    clock.now += 20 * HOUR
    ((_, left),) = [
        r.retry_seconds for r in hold_back(store, at="2", lost="", clock=clock).reasons()
    ]
    assert left == 4 * HOUR
    again = hold_back(store, at="3", lost="ledger_entries\nreceipts", clock=clock)
    assert again.reasons()[0].retry_seconds == (DAY, DAY)
    clock.now += DAY
    assert again.reasons() == ()
    assert HoldBack(store.database, clock=clock).reasons() == ()


def test_a_clock_that_is_set_back_holds_for_a_day_at_most(store, clock) -> None:
    """From when it was set back, and no longer for that in a later process."""
    assert hold_back(store, at="1", lost="everything", clock=clock).reasons()
    clock.now -= 30 * DAY
    held = HoldBack(store.database, clock=clock)
    assert held.reasons()[0].retry_seconds == (HOLD_BACK_SECONDS, HOLD_BACK_SECONDS)
    clock.now += 23 * HOUR
    assert HoldBack(store.database, clock=clock).reasons()[0].retry_seconds == (HOUR, HOUR)
    clock.now += HOUR
    assert HoldBack(store.database, clock=clock).reasons() == ()


def test_a_sound_store_is_not_held_back(store, clock) -> None:
    """No quarantine, no reason."""
    assert HoldBack(store.database, clock=clock).reasons() == ()
