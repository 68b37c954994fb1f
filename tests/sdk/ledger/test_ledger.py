"""The account itself: windows, refusals that say when, settlement, and who may spend."""

from __future__ import annotations

import pytest

from pocketfl.budgets import Amounts, Budgets, Limits, contribution_rho, epsilon_of
from pocketfl.database import Database
from pocketfl.errors import LedgerError
from pocketfl.ledger import Ledger, Refusal, Reservation, Uptime
from pocketfl.ledger.tables import KEPT_REFUSALS, KEPT_SECONDS

HOUR, DAY = 3600.0, 86_400.0
ONE = Amounts(cpu_seconds=10.0, contributions=1)
LOOSE = Budgets(delta=1e-6)


class Clock:
    """Time that a test moves; the uptime agrees with it."""

    def __init__(self) -> None:
        self.now = 1.7e9

    def __call__(self) -> float:
        return self.now

    def uptime(self) -> Uptime:
        return Uptime(boot="boot", seconds=self.now)


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def database(tmp_path):
    with Database(tmp_path / "device.db", durable=False) as opened:
        yield opened


@pytest.fixture
def ledger(database, clock):
    return Ledger(database, clock=clock, uptime=clock.uptime)


def take_part(ledger, number, *, task="t", budgets=LOOSE, outcome="sent", used=ONE, sigma=1.0):
    made = ledger.reserve(
        task=task,
        round=number,
        needs=ONE,
        wants=ONE,
        budgets=budgets,
        noise_multiplier=sigma,
    )
    if isinstance(made, Reservation):
        ledger.settle(made, outcome=outcome, amounts=Amounts(cpu_seconds=used.cpu_seconds))
    return made


def test_what_was_not_spent_is_free_again(ledger):
    """An open round holds all that it was granted, a settled one what it came to."""
    made = ledger.reserve(
        task="t", round=1, needs=ONE, wants=Amounts(cpu_seconds=50.0), budgets=LOOSE
    )
    assert ledger.used(seconds=DAY).cpu_seconds == 50.0
    assert ledger.spend(made, Amounts(cpu_seconds=3.0)) is None
    assert ledger.used(seconds=DAY).cpu_seconds == 50.0
    ledger.settle(made, outcome="sent", amounts=Amounts(cpu_seconds=1.0))
    assert ledger.used(seconds=DAY) == Amounts(cpu_seconds=4.0, contributions=1)


@pytest.mark.parametrize(
    ("field", "length", "name"), [("per_day", DAY, "in 24 hours"), ("per_month", 30 * DAY, "in 30")]
)
def test_refusal_says_which_window_and_when_it_frees(ledger, clock, field, length, name):
    """Room comes back when the earliest entry leaves the window, not a second sooner."""
    budgets = Budgets(**{field: Limits(cpu_seconds=25.0)})
    take_part(ledger, 1, budgets=budgets)
    clock.now += HOUR
    take_part(ledger, 2, budgets=budgets)
    refusal = take_part(ledger, 3, budgets=budgets)
    assert isinstance(refusal, Refusal)
    (reason,) = refusal.reasons
    assert name in reason.condition
    assert str(reason).startswith("CPU seconds in")
    assert reason.retry_seconds == pytest.approx((length - HOUR, length - HOUR))
    clock.now += length - HOUR - 1
    assert isinstance(take_part(ledger, 3, budgets=budgets), Refusal)
    clock.now += 1
    assert isinstance(take_part(ledger, 3, budgets=budgets), Reservation)


def test_more_than_a_window_ever_holds_is_refused_for_good(ledger):
    """No time is given where waiting changes nothing."""
    refusal = take_part(ledger, 1, budgets=Budgets(per_day=Limits(cpu_seconds=9.0)))
    assert refusal.reasons[0].retry_seconds is None
    assert refusal.retry_seconds is None


def test_a_round_is_limited_over_all_its_tries(ledger):
    """A round that is tried again has only what its first try left."""
    budgets = Budgets(per_round=Limits(cpu_seconds=15.0))
    take_part(ledger, 1, budgets=budgets, outcome="unsent")
    refusal = take_part(ledger, 1, budgets=budgets)
    assert "in this round" in refusal.reasons[0].condition
    assert isinstance(take_part(ledger, 2, budgets=budgets), Reservation)


def test_memory_and_storage_are_levels(ledger):
    """They are compared for each session alone, never added up."""
    budgets = Budgets(per_day=Limits(peak_memory_bytes=100, storage_bytes=100))
    for number in range(3):
        made = ledger.reserve(
            task="t", round=number, needs=Amounts(peak_memory_bytes=90), budgets=budgets
        )
        assert made.granted.peak_memory_bytes == 100
        reason = ledger.spend(made, Amounts(peak_memory_bytes=101))
        assert reason is not None
        assert "peak_memory_bytes" in reason.condition
        ledger.settle(made, outcome="unsent")
    refusal = ledger.reserve(task="t", round=9, needs=Amounts(storage_bytes=101), budgets=budgets)
    assert [reason.condition for reason in refusal.reasons] == ["bytes of storage in 24 hours"]


def test_spending_stops_before_a_stride_that_would_not_fit(ledger):
    """With strides of two, a grant of five allows recording up to three."""
    made = ledger.reserve(
        task="t",
        round=1,
        needs=Amounts(cpu_seconds=1.0),
        wants=Amounts(cpu_seconds=5.0),
        budgets=LOOSE,
        stride=Amounts(cpu_seconds=2.0),
    )
    assert ledger.spend(made, Amounts(cpu_seconds=2.0)) is None
    assert ledger.spend(made, Amounts(cpu_seconds=1.0)) is None
    reason = ledger.spend(made, Amounts(cpu_seconds=0.1))
    assert reason is not None
    assert "cpu_seconds" in reason.condition


def test_room_left_is_granted_where_less_than_wanted(ledger):
    """A session gets what fits between need and wish."""
    budgets = Budgets(per_day=Limits(cpu_seconds=25.0))
    take_part(ledger, 1)
    made = ledger.reserve(
        task="t", round=2, needs=ONE, wants=Amounts(cpu_seconds=100.0), budgets=budgets
    )
    assert made.granted.cpu_seconds == 15.0


def test_contributions_of_a_task_are_counted_for_life(ledger, clock):
    """Old entries are folded into a total that still counts; another task has its own."""
    budgets = Budgets(max_contributions_per_task=2)
    take_part(ledger, 1, budgets=budgets)
    for number in range(2, 6):
        clock.now += KEPT_SECONDS / 3
        take_part(ledger, number, task="other")
    assert isinstance(take_part(ledger, 6, budgets=budgets), Reservation)
    refusal = take_part(ledger, 7, budgets=budgets)
    assert refusal.reasons[0].condition == "contributions to this task"
    assert refusal.retry_seconds is None


def test_contributions_keep_apart(ledger, clock):
    """The separation runs from the end of the last contribution to the same task."""
    budgets = Budgets(min_separation_seconds=5 * HOUR)
    take_part(ledger, 1, budgets=budgets)
    clock.now += HOUR
    refusal = take_part(ledger, 2, budgets=budgets)
    assert refusal.retry_seconds == pytest.approx(4 * HOUR)
    assert isinstance(take_part(ledger, 2, task="other", budgets=budgets), Reservation)
    clock.now += 4 * HOUR
    assert isinstance(take_part(ledger, 2, budgets=budgets), Reservation)


def test_unsent_contributions_do_not_count(ledger):
    """A round that ended before its upload costs time but neither a contribution nor epsilon."""
    budgets = Budgets(min_separation_seconds=HOUR, max_contributions_per_task=1)
    take_part(ledger, 1, budgets=budgets, outcome="unsent")
    assert ledger.privacy(delta=1e-6).epsilon == 0.0
    assert ledger.used(seconds=DAY).contributions == 0
    assert isinstance(take_part(ledger, 2, budgets=budgets, outcome="unknown"), Reservation)
    assert ledger.privacy(delta=1e-6).contributions == 1


def test_epsilon_is_spent_per_year_over_all_tasks(ledger, clock):
    """Contributions of several tasks with different noise compose, and leave after 365 days."""
    rho = contribution_rho(1.0) + contribution_rho(2.0)
    budgets = Budgets(max_epsilon_per_year=epsilon_of(rho, delta=1e-6), delta=1e-6)
    take_part(ledger, 1, task="a", budgets=budgets, sigma=1.0)
    clock.now += 10 * DAY
    take_part(ledger, 1, task="b", budgets=budgets, sigma=2.0)
    spent = ledger.privacy(delta=1e-6)
    assert spent.rho == pytest.approx(rho)
    assert (spent.contributions, spent.unprotected) == (2, 0)
    refusal = take_part(ledger, 2, task="b", budgets=budgets, sigma=2.0)
    assert refusal.reasons[0].condition == "epsilon in 365 days"
    assert refusal.retry_seconds == pytest.approx(355 * DAY)
    clock.now += 355 * DAY
    assert isinstance(take_part(ledger, 2, task="b", budgets=budgets, sigma=2.0), Reservation)


def test_unprotected_contributions_are_counted_apart(ledger):
    """Epsilon says nothing about a task without noise, so the ledger says how many there were."""
    take_part(ledger, 1, sigma=None)
    spent = ledger.privacy(delta=1e-6)
    assert (spent.epsilon, spent.contributions, spent.unprotected) == (0.0, 0, 1)


def test_what_a_crash_left_open_counts_in_full_until_its_window_passed(ledger, database, clock):
    """Nobody took it up: it counts from its end on, as it may have been used until then."""
    budgets = Budgets(per_day=Limits(cpu_seconds=15.0))
    ledger.reserve(task="t", round=1, needs=ONE, budgets=budgets, lifetime_seconds=6 * HOUR)
    after = Ledger(database, clock=clock, uptime=clock.uptime)
    refusal = take_part(after, 2, budgets=budgets)
    assert refusal.retry_seconds == pytest.approx(DAY + 6 * HOUR)
    clock.now += DAY + 6 * HOUR - 1
    assert isinstance(take_part(after, 2, budgets=budgets), Refusal)
    clock.now += 1
    assert isinstance(take_part(after, 2, budgets=budgets), Reservation)


def test_taking_over_a_round_costs_a_stride(ledger, database, clock):
    """What the dead process may have used after its last record is charged to the round."""
    stride = Amounts(cpu_seconds=2.0)
    made = ledger.reserve(task="t", round=1, needs=ONE, wants=ONE, budgets=LOOSE, stride=stride)
    ledger.spend(made, Amounts(cpu_seconds=3.0))
    after = Ledger(database, clock=clock, uptime=clock.uptime)
    (left,) = after.unsettled()
    with pytest.raises(LedgerError, match="another process"):
        after.spend(left, Amounts(cpu_seconds=1.0))
    resumed = after.resume(left, needs=Amounts(cpu_seconds=4.0), wants=ONE, budgets=LOOSE)
    assert resumed.spent.cpu_seconds == 5.0
    assert (resumed.granted.cpu_seconds, resumed.crashes) == (15.0, 1)
    with pytest.raises(LedgerError, match="another process"):
        ledger.spend(made, Amounts(cpu_seconds=1.0))
    again = Ledger(database, clock=clock, uptime=clock.uptime)
    again.settle(left, outcome="unknown")
    assert again.used(seconds=DAY) == Amounts(cpu_seconds=7.0, contributions=1)


def test_pausing_in_the_same_process_costs_nothing(ledger):
    """Only a process that died leaves something unrecorded."""
    made = ledger.reserve(
        task="t", round=1, needs=ONE, budgets=LOOSE, stride=Amounts(cpu_seconds=2.0)
    )
    resumed = ledger.resume(made, needs=ONE, budgets=LOOSE)
    assert (resumed.spent.cpu_seconds, resumed.crashes) == (0.0, 0)


def test_a_round_is_not_resumed_beyond_its_budget_or_its_end(ledger, clock):
    """Both are refusals with a reason, recorded, and leave the round to be settled."""
    budgets = Budgets(per_round=Limits(cpu_seconds=12.0))
    made = ledger.reserve(task="t", round=1, needs=ONE, budgets=budgets, lifetime_seconds=HOUR)
    ledger.spend(made, Amounts(cpu_seconds=8.0))
    refusal = ledger.resume(made, needs=Amounts(cpu_seconds=5.0), budgets=budgets)
    assert "in this round" in refusal.reasons[0].condition
    clock.now += HOUR + 1
    refusal = ledger.resume(made, needs=Amounts(), budgets=budgets)
    assert refusal.reasons[0].condition == "time after the reservation's end"
    assert ledger.spend(made, Amounts()).condition == "time after the reservation's end"
    assert len(ledger.refusals()) == 2
    ledger.settle(made, outcome="unsent")
    assert ledger.used(seconds=DAY).cpu_seconds == 8.0


def test_a_round_has_one_reservation_at_a_time(ledger):
    """A second one is an error that says what to do."""
    ledger.reserve(task="t", round=1, needs=ONE, budgets=LOOSE)
    with pytest.raises(LedgerError, match=r"resume\(\) or settle\(\)"):
        ledger.reserve(task="t", round=1, needs=ONE, budgets=LOOSE)


def test_settling_twice_changes_nothing(ledger):
    """The same outcome again is no error, since a crash may have hidden the first; another one is."""
    made = take_part(ledger, 1, outcome="unknown")
    before = ledger.used(seconds=DAY)
    ledger.settle(made, outcome="unknown", amounts=ONE)
    ledger.settle(made, outcome="sent")
    assert ledger.used(seconds=DAY) == before
    with pytest.raises(LedgerError, match="cannot become 'unsent'"):
        ledger.settle(made, outcome="unsent")
    with pytest.raises(LedgerError, match="was settled"):
        ledger.spend(made, ONE)


def test_nothing_of_an_undone_transaction_remains(ledger, database):
    """The ledger joins the caller's transaction, whatever becomes of it."""
    with pytest.raises(RuntimeError), database.transaction():
        made = ledger.reserve(task="t", round=1, needs=ONE, budgets=LOOSE)
        raise RuntimeError
    assert ledger.used(seconds=DAY) == Amounts()
    with pytest.raises(LedgerError, match="there is no reservation"):
        ledger.spend(made, ONE)


def test_refusals_are_recorded_and_bounded(ledger):
    """Each is kept with its reason in words; of many, the latest."""
    budgets = Budgets(per_day=Limits(contributions=0))
    for number in range(KEPT_REFUSALS + 5):
        take_part(ledger, number, budgets=budgets)
    kept = ledger.refusals(limit=10_000)
    assert len(kept) == KEPT_REFUSALS
    assert (kept[0].round, kept[-1].round) == (KEPT_REFUSALS + 4, 5)
    assert kept[0].reasons == "contributions in 24 hours 1 (0 used and 1 needed) > 0"


def test_checking_records_nothing(ledger, database):
    """Explaining why not is free: the same reasons as a refusal, and the tables stay as they are."""
    budgets = Budgets(per_day=Limits(contributions=0))
    take_part(ledger, 1, budgets=budgets)
    before = list(database._connection.iterdump())
    reasons = ledger.check(task="t", round=2, needs=ONE, budgets=budgets, noise_multiplier=1.0)
    assert list(database._connection.iterdump()) == before
    assert reasons == take_part(ledger, 2, budgets=budgets).reasons


def test_budgets_need_a_delta_to_state_an_epsilon(ledger):
    """An epsilon without a delta means nothing, and is an error of the app."""
    with pytest.raises(ValueError, match="need a delta"):
        take_part(ledger, 1, budgets=Budgets(max_epsilon_per_year=1.0))


def test_clock_jumps_free_nothing(ledger, database, clock):
    """Within one boot the wall clock is not asked, in either direction."""
    budgets = Budgets(per_day=Limits(contributions=1))
    take_part(ledger, 1, budgets=budgets)
    for jump in (400 * DAY, -4000 * DAY):
        jumped = Ledger(database, clock=lambda j=jump: clock.now + j, uptime=clock.uptime)
        refusal = take_part(jumped, 2, budgets=budgets)
        assert refusal.retry_seconds == pytest.approx(DAY)
