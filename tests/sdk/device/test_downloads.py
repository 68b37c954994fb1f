"""What a device fetches before it has a place in a round is in its budgets, even if it always dies."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from tests.sdk.ledger.test_crashes import Crash, FusedConnection, leave

from pocketfl.budgets import Budgets, Limits
from pocketfl.ledger import Ledger
from pocketfl.store import ExampleStore

from .conftest import DAY, NOW, MemoryBackEnd, Phone, unreachable

ROOM = 400_000


@dataclass
class DistantBackEnd(MemoryBackEnd):
    """Whose plans come over a network, in two halves."""

    fetched: int = 0
    between: Callable[[], None] | None = None

    def plan(self, sha256: str, *, watch=None) -> bytes:
        self._called("plan")
        size = len(self.plan_data)
        for received, part in ((0, size // 2), (size // 2, size - size // 2)):
            watch(received, size - received)
            self.fetched += part
            if self.between is not None:
                self.between()
        return self.plan_data

    @property
    def traffic(self):
        counted = super().traffic
        return replace(counted, bytes_down=counted.bytes_down + self.fetched)


@pytest.fixture
def back_end(plan) -> DistantBackEnd:
    return DistantBackEnd.serving(plan)


@pytest.fixture
def app(make_device):
    """Make devices of an app with little room for downloads."""

    def make(store: ExampleStore):
        room = Limits(bytes_down_metered=ROOM, bytes_down_unmetered=ROOM)
        return make_device(store=store, signals=Phone(), budgets=Budgets(per_day=room))

    return make


def used_of(store: ExampleStore) -> int:
    """Return the bytes received that the ledger holds or has spent in a day."""
    used = Ledger(store.database, clock=lambda: NOW).used(seconds=DAY)
    return used.bytes_down_metered + used.bytes_down_unmetered


def outcomes(store: ExampleStore) -> list[str]:
    return [row[0] for row in store.database.query("SELECT outcome FROM ledger_entries")]


def remains_of(store: ExampleStore, path: Path) -> Path:
    """Leave in a new file what a process that dies now leaves in its own."""
    leave(store.database.path, path)
    keep_key(store, path)
    return path


def keep_key(store: ExampleStore, path: Path) -> None:
    own = store.database.path
    shutil.copyfile(own.with_name(own.name + "-key"), path.with_name(path.name + "-key"))


def test_a_device_that_always_dies_in_a_download_runs_out_of_budget(
    app, back_end, store, tmp_path
) -> None:
    """Each death is charged with the whole plan, so the day's room for bytes ends them."""
    deaths = 0

    def die() -> None:
        remains_of(current, tmp_path / f"life{deaths}.db")
        raise Crash

    back_end.between = die
    current = store
    while True:
        before = back_end.fetched
        try:
            outcome = app(current).run_once()
            break
        except Crash:
            current = ExampleStore(tmp_path / f"life{deaths}.db")
            deaths += 1
            assert deaths < 100
    assert (outcome.status, outcome.code) == ("ineligible", "budget"), outcome
    assert "bytes received" in outcome.reason
    assert outcome.retry_after > DAY / 2
    assert back_end.fetched == before
    assert deaths > 1
    assert back_end.fetched <= used_of(current) <= ROOM


def test_at_no_statement_a_death_is_free(app, back_end, store, tmp_path) -> None:
    """Killed before or after any SQL statement from the download on: what came is charged."""
    app(store).enrol()
    lit: list[FusedConnection] = []
    moments = iter([(n, after) for n in range(30) for after in (False, True)])
    back_end.before["plan"] = lambda: light(lit[-1], next(moments))
    died = 0
    for number in range(60):
        current = ExampleStore(remains_of(store, tmp_path / f"begin{number}.db"))
        end = tmp_path / f"end{number}.db"
        lit.append(FusedConnection(current.database._connection, current.database.path, end))
        current.database._connection = lit[-1]
        before = back_end.fetched
        try:
            app(current).run_once()
        except Crash:
            died += 1
            keep_key(store, end)
            with ExampleStore(end) as left:
                assert used_of(left) >= back_end.fetched - before
        lit[-1].fuse = None
    assert died >= 30


def light(connection: FusedConnection, moment: tuple[int, bool]) -> None:
    connection.fuse, connection.after = moment


@pytest.mark.parametrize("follows", ["a session", "no session"])
def test_every_byte_is_charged_once(app, back_end, store, follows) -> None:
    """The download has an entry of its own, whether a session follows or not."""
    if follows == "no session":
        back_end.failures["check_in"] = unreachable()
    with_session = app(store).run_once().status == "completed"
    assert with_session == (follows == "a session")
    assert outcomes(store) == ["unsent", "sent"] if with_session else ["unsent"]
    # The check-in that failed waits for the next session.
    waits = 0 if with_session else 2 * 1000
    assert used_of(store) == back_end.traffic.bytes_down - waits


def test_a_plan_that_the_device_has_sets_nothing_aside(app, back_end, store) -> None:
    """A second round with the same plan has no entry but its session's."""
    device = app(store)
    assert device.run_once().status == "completed"
    back_end.round += 1
    assert device.run_once().status == "completed"
    assert back_end.calls.count("plan") == 1
    assert outcomes(store) == ["unsent", "sent", "sent"]


def test_a_plan_beyond_the_budget_is_not_read(app, back_end, store) -> None:
    """What the server announces is compared with the room before a byte of it is read."""
    back_end.plan_data = bytes(2 * ROOM)
    outcome = app(store).run_once()
    assert (outcome.status, outcome.code) == ("ineligible", "budget")
    assert back_end.fetched == 0
    assert used_of(store) < ROOM / 10
