"""A session's account: stops in time, writes seldom, loses at most a stride."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pocketfl.budgets import NOTHING, Amounts, Budgets, EnergyModel, Limits
from pocketfl.database import Database
from pocketfl.errors import StoreError
from pocketfl.ledger import Ledger, Spending, stride_of

LOOSE = Budgets()


class FakeMeter:
    """A meter that shows what a test says, and a clock that goes with it."""

    def __init__(self) -> None:
        self.shown = NOTHING

    def read(self, *, thorough: bool = False) -> Amounts:
        return self.shown

    def clock(self) -> float:
        return self.shown.wall_seconds

    def batch(self, seconds: float, **more) -> None:
        self.shown += Amounts(cpu_seconds=seconds, wall_seconds=seconds, **more)


@pytest.fixture
def database(tmp_path):
    with Database(tmp_path / "device.db", durable=False) as opened:
        yield opened


def begin(database, meter, *, cpu=1800.0, **options):
    ledger = Ledger(database)
    made = ledger.reserve(
        task="t",
        round=1,
        needs=Amounts(contributions=1),
        budgets=Budgets(per_round=Limits(cpu_seconds=cpu)),
        stride=options.pop("stride", NOTHING),
    )
    return ledger, Spending(ledger, made, meter, clock=meter.clock, cpus=1, **options)


def test_a_short_session_writes_only_at_its_ends(database):
    """Batches within the first second cost no write; the end records them."""
    meter = FakeMeter()
    ledger, spending = begin(database, meter)
    before = database._connection.total_changes
    for _ in range(9):
        meter.batch(0.1)
        assert spending.step() is None
    assert database._connection.total_changes == before
    spending.finish(outcome="sent")
    assert ledger.used(seconds=60).cpu_seconds == pytest.approx(0.9)


@settings(deadline=None, max_examples=40)
@given(batches=st.lists(st.floats(0.01, 3.0), min_size=30, max_size=60), limit=st.floats(5.0, 20.0))
def test_a_session_overspends_by_less_than_a_batch(tmp_path_factory, batches, limit):
    """It stops when another batch like the longest would not fit: at most that last one is too much."""
    meter = FakeMeter()
    with Database(tmp_path_factory.mktemp("ledger") / "a.db", durable=False) as database:
        _, spending = begin(database, meter, cpu=limit)
        done, last = 0.0, 0.0
        for seconds in batches:
            meter.batch(seconds)
            done, last = done + seconds, seconds
            if spending.step() is not None:
                break
        else:
            assert done <= limit
        assert done <= limit + last
        assert spending.spent.cpu_seconds == pytest.approx(done)


@settings(deadline=None, max_examples=40)
@given(batches=st.lists(st.floats(0.01, 0.5), min_size=1, max_size=60))
def test_a_crash_is_charged_at_least_what_it_hid(tmp_path_factory, batches):
    """Whenever the process dies, the next one counts no less than what was really used."""
    meter = FakeMeter()
    stride = stride_of(every_seconds=1.0, cpus=1, step=Amounts(cpu_seconds=0.5, wall_seconds=0.5))
    path = tmp_path_factory.mktemp("ledger") / "a.db"
    with Database(path, durable=False) as database:
        _, spending = begin(database, meter, stride=stride)
        for seconds in batches:
            meter.batch(seconds)
            spending.step()
        # Also the batch during which it dies.
        meter.batch(min(batches))
    with Database(path, durable=False) as database:
        ledger = Ledger(database)
        (left,) = ledger.unsettled()
        ledger.settle(left, outcome="unknown")
        used = ledger.used(seconds=60)
        assert used.cpu_seconds >= meter.shown.cpu_seconds - 1e-9
        assert used.cpu_seconds <= meter.shown.cpu_seconds + 2.0


def test_writes_come_at_a_bounded_rate(database):
    """A hundred batches of a tenth of a second are ten writes."""
    meter = FakeMeter()
    ledger, spending = begin(database, meter)
    calls = []
    original = ledger.spend
    ledger.spend = lambda *a, **k: calls.append(1) or original(*a, **k)
    for _ in range(100):
        meter.batch(0.1)
        spending.step()
    assert 9 <= len(calls) <= 10


def test_bytes_and_memory_stop_a_session_too(database):
    """Every measure that was granted is watched, not the processor alone."""
    ledger = Ledger(database)
    limits = Limits(bytes_up=100, peak_memory_bytes=1000)
    for number, more in enumerate(({"bytes_up": 101}, {"peak_memory_bytes": 1001})):
        meter = FakeMeter()
        made = ledger.reserve(
            task="t", round=number, needs=NOTHING, budgets=Budgets(per_round=limits)
        )
        spending = Spending(ledger, made, meter, clock=meter.clock)
        meter.batch(0.1)
        assert spending.step() is None
        meter.batch(0.1, **more)
        assert next(iter(more)) in spending.step().condition
        assert spending.stop_reason is not None
        spending.finish(outcome="unsent")


def test_a_write_that_failed_is_made_up_for(database):
    """What could not be written is still owed, and the next write has it."""
    meter = FakeMeter()
    ledger, spending = begin(database, meter)
    meter.batch(0.5)
    with pytest.raises(StoreError), database.transaction() as connection:
        connection.execute("NONSENSE")
    with pytest.raises(RuntimeError), database.transaction():
        spending.record()
        raise RuntimeError
    spending.finish(outcome="sent")
    assert ledger.used(seconds=60).cpu_seconds == pytest.approx(0.5)


def test_a_resumed_session_goes_on_from_what_was_spent(database):
    """The earlier session counts against the same grant."""
    meter = FakeMeter()
    _, spending = begin(database, meter, stride=Amounts(cpu_seconds=1.0))
    meter.batch(4.0)
    spending.record()
    ledger = Ledger(database)
    (left,) = ledger.unsettled()
    made = ledger.resume(
        left, needs=NOTHING, wants=Amounts(cpu_seconds=3.0, wall_seconds=9.0), budgets=LOOSE
    )
    meter = FakeMeter()
    again = Spending(ledger, made, meter, clock=meter.clock, cpus=1)
    assert again.spent.cpu_seconds >= 5.0
    meter.batch(1.0)
    assert again.step() is None
    meter.batch(2.5)
    assert again.step() is not None


def test_the_stride_covers_every_processor_and_a_step():
    """Four processors for two seconds, and the download that had just begun."""
    stride = stride_of(
        every_seconds=2.0,
        cpus=4,
        energy=EnergyModel(watts_per_cpu=1.5),
        step=Amounts(bytes_down_metered=1000),
    )
    assert stride == Amounts(
        cpu_seconds=8.0, wall_seconds=2.0, joules=12.0, bytes_down_metered=1000
    )
