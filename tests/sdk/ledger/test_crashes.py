"""No interleaving of reserving, spending, crashing and restarting overspends a budget."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from pocketfl.budgets import Amounts, Budgets, Limits, contribution_rho, epsilon_of
from pocketfl.database import Database
from pocketfl.ledger import Ledger, Reservation, Uptime

DAY, MONTH, YEAR = 86_400.0, 30 * 86_400.0, 365 * 86_400.0
STRIDE = Amounts(cpu_seconds=2.0, bytes_up=100)
LIFETIME = 3 * 3600.0
SIGMA, DELTA = 1.0, 1e-6
BUDGETS = Budgets(
    per_round=Limits(cpu_seconds=7.0, bytes_up=700, contributions=1),
    per_day=Limits(cpu_seconds=20.0, bytes_up=1000, contributions=3),
    per_month=Limits(cpu_seconds=45.0, bytes_up=2500, contributions=8),
    min_separation_seconds=4 * 3600.0,
    max_contributions_per_task=3,
    max_epsilon_per_year=epsilon_of(4 * contribution_rho(SIGMA), delta=DELTA),
    delta=DELTA,
)


class Crash(BaseException):
    """The process ends here; nothing of it runs any more."""


class FusedConnection:
    """A connection at which the process dies before or after its n-th statement.

    What a killed process leaves is what its files hold at that moment, so they are copied then: what
    the dying code still does to its own files (a rollback), the next process does not see.
    """

    def __init__(self, connection, path: Path, remains: Path) -> None:
        self._connection, self._path, self._remains = connection, path, remains
        self.fuse: int | None = None
        self.after = False

    def execute(self, *arguments):
        burnt = self.fuse == 0
        if self.fuse is not None:
            self.fuse -= 1
        if burnt and not self.after:
            self._die()
        result = self._connection.execute(*arguments)
        if burnt:
            self._die()
        return result

    def _die(self) -> None:
        leave(self._path, self._remains)
        raise Crash

    def __getattr__(self, name: str):
        return getattr(self._connection, name)


def leave(path: Path, remains: Path) -> None:
    for suffix in ("", "-wal"):
        source = path.with_name(path.name + suffix)
        if source.exists():
            shutil.copyfile(source, remains.with_name(remains.name + suffix))


@dataclass
class Session:
    """What a process that is alive knows, and what it really did since it last told the ledger."""

    reservation: Reservation
    expires: float
    used: Amounts = field(default_factory=Amounts)
    sent: bool = False
    stopped: bool = False


class LedgerLife(RuleBasedStateMachine):
    """A device's life; ``truth`` is what it really used, which no crash can take back."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.files = 0
        self.now = 0.0
        self.wall = 1.7e9
        self.truth: list[tuple[float, str, int, float, int]] = []
        self.sends: list[tuple[float, str, int]] = []
        self.expiries: dict[int, float] = {}
        self.session: Session | None = None
        self.fuse: tuple[int, bool] | None = None
        self.rounds = 0
        self.open(self.folder / "0.db")

    def open(self, path: Path) -> None:
        self.database = Database(path, durable=False)
        self.files += 1
        self.remains = self.folder / f"{self.files}.db"
        self.connection = FusedConnection(self.database._connection, path, self.remains)
        self.database._connection = self.connection
        self.ledger = Ledger(
            self.database,
            clock=lambda: self.wall,
            uptime=lambda: Uptime(boot="boot", seconds=self.now),
        )

    def restart(self) -> None:
        self.connection.fuse = None
        self.database.close()
        self.session = None
        self.open(self.remains)

    def attempt(self, action):
        """Run an action of the process, which may die of a fuse that was lit before."""
        if self.fuse is not None:
            self.connection.fuse, self.connection.after = self.fuse
            self.fuse = None
        try:
            result = action()
        except Crash:
            self.restart()
            return None
        self.connection.fuse = None
        return result

    @rule(statements=st.integers(0, 12), after=st.booleans())
    def light_fuse(self, statements, after):
        self.fuse = (statements, after)

    @rule()
    def kill(self):
        leave(self.connection._path, self.remains)
        self.restart()

    @rule(seconds=st.sampled_from([1.0, 600.0, 9000.0, 5 * 3600.0, DAY - 1800, DAY, 9 * DAY]))
    def wait(self, seconds):
        self.now += seconds
        self.wall += seconds

    @rule(jump=st.floats(-40 * DAY, 400 * DAY))
    def set_wall_clock(self, jump):
        self.wall += jump

    @precondition(lambda self: self.session is None)
    @rule(task=st.sampled_from("ab"), cpu=st.floats(0.5, 12.0), size=st.integers(0, 500))
    def reserve(self, task, cpu, size):
        self.rounds += 1
        number = self.rounds
        result = self.attempt(
            lambda: self.ledger.reserve(
                task=task,
                round=number,
                needs=Amounts(cpu_seconds=cpu, bytes_up=size, contributions=1),
                budgets=BUDGETS,
                stride=STRIDE,
                noise_multiplier=SIGMA,
                lifetime_seconds=LIFETIME,
            )
        )
        if isinstance(result, Reservation):
            self.expiries[number] = self.now + LIFETIME
            self.session = Session(result, self.now + LIFETIME)

    @precondition(lambda self: self.session is None)
    @rule(cpu=st.floats(0.1, 6.0), data=st.data())
    def resume(self, cpu, data):
        left = self.attempt(self.ledger.unsettled)
        if not left:
            return
        self.take_up(data.draw(st.sampled_from(left)), cpu)

    def take_up(self, chosen, cpu):
        # Also one whose reserving process died before it knew of it.
        expires = self.expiries.get(chosen.round, self.now)
        result = self.attempt(
            lambda: self.ledger.resume(chosen, needs=Amounts(cpu_seconds=cpu), budgets=BUDGETS)
        )
        if isinstance(result, Reservation):
            self.session = Session(result, expires)

    @precondition(lambda self: self.session is None)
    @rule(data=st.data())
    def give_up(self, data):
        left = self.attempt(self.ledger.unsettled)
        if left:
            chosen = data.draw(st.sampled_from(left))
            sent = any(number == chosen.round for _, _, number in self.sends)
            outcome = "unknown" if sent else data.draw(st.sampled_from(["unsent", "unknown"]))
            self.attempt(lambda: self.ledger.settle(chosen, outcome=outcome))

    def alive(self) -> bool:
        session = self.session
        return session is not None and not session.stopped and self.now <= session.expires

    @precondition(lambda self: self.alive())
    @rule(cpu=st.floats(0.1, 2.0), size=st.integers(0, 100))
    def work(self, cpu, size):
        """A batch, if it keeps within the stride that was stated."""
        session = self.session
        used = session.used + Amounts(cpu_seconds=cpu, bytes_up=size)
        if used.cpu_seconds > STRIDE.cpu_seconds or used.bytes_up > STRIDE.bytes_up:
            self.spend()
            if not self.alive():
                return
            used = self.session.used + Amounts(cpu_seconds=cpu, bytes_up=size)
        self.session.used = used
        reservation = self.session.reservation
        self.truth.append((self.now, reservation.task, reservation.round, cpu, size))

    @precondition(lambda self: self.session is not None)
    @rule()
    def spend(self):
        session = self.session
        used, session.used = session.used, Amounts()
        reason = self.attempt(lambda: self.ledger.spend(session.reservation, used))
        if reason is not None:
            session.stopped = True

    @precondition(lambda self: self.alive())
    @rule()
    def send(self):
        reservation = self.session.reservation
        if not any(number == reservation.round for _, _, number in self.sends):
            self.sends.append((self.now, reservation.task, reservation.round))
        self.session.sent = True

    @precondition(lambda self: self.session is None)
    @rule(task=st.sampled_from("ab"), waits=st.sampled_from([0.0, 5 * 3600.0, 2 * DAY]))
    def take_part(self, task, waits):
        """A round from end to end that uses all it may; a fuse may cut it short anywhere."""
        self.wait(waits)
        self.reserve(task, 2.0, 100)
        self.work_on()
        if self.alive():
            self.send()
        if self.session is not None:
            self.settle()

    @precondition(lambda self: self.alive())
    @rule()
    def work_on(self):
        """Batches as large as the stride, until the ledger says stop."""
        while self.alive():
            self.work(2.0, 100)

    @precondition(lambda self: self.session is None)
    @rule(times=st.integers(1, 6))
    def keep_dying(self, times):
        """Take the round up again and die after a stride that was not recorded, over and over."""
        for _ in range(times):
            left = self.ledger.unsettled()
            if not left:
                return
            self.take_up(left[0], 0.1)
            if self.alive():
                self.work(2.0, 100)
            self.kill()

    @precondition(lambda self: self.session is not None)
    @rule()
    def settle(self):
        session = self.session
        number = session.reservation.round
        sent = any(each == number for _, _, each in self.sends)
        outcome = "sent" if sent else "unsent"
        self.attempt(
            lambda: self.ledger.settle(session.reservation, outcome=outcome, amounts=session.used)
        )
        self.session = None

    @invariant()
    def no_window_is_overspent(self):
        for length, limits in ((DAY, BUDGETS.per_day), (MONTH, BUDGETS.per_month)):
            recent = [each for each in self.truth if each[0] > self.now - length]
            assert sum(each[3] for each in recent) <= limits.cpu_seconds + 1e-6
            assert sum(each[4] for each in recent) <= limits.bytes_up
            sends = [each for each in self.sends if each[0] > self.now - length]
            assert len(sends) <= limits.contributions

    @invariant()
    def no_round_is_overspent(self):
        for number in {each[2] for each in self.truth}:
            mine = [each for each in self.truth if each[2] == number]
            assert sum(each[3] for each in mine) <= BUDGETS.per_round.cpu_seconds + 1e-6
            assert sum(each[4] for each in mine) <= BUDGETS.per_round.bytes_up

    @invariant()
    def contributions_keep_apart_and_within_their_number(self):
        for task in "ab":
            times = sorted(time for time, name, _ in self.sends if name == task)
            assert len(times) <= BUDGETS.max_contributions_per_task
            for before, after in pairwise(times):
                assert after - before >= BUDGETS.min_separation_seconds

    @invariant()
    def epsilon_keeps_within_the_year(self):
        recent = sum(1 for time, _, _ in self.sends if time > self.now - YEAR)
        epsilon = epsilon_of(recent * contribution_rho(SIGMA), delta=DELTA)
        assert epsilon <= BUDGETS.max_epsilon_per_year + 1e-9

    @invariant()
    def ledger_knows_at_least_what_was_sent(self):
        assert self.ledger.privacy(delta=DELTA).contributions >= sum(
            1 for time, _, _ in self.sends if time > self.now - YEAR
        )

    def teardown(self) -> None:
        self.connection.fuse = None
        self.database.close()
        shutil.rmtree(self.folder)


TestLedgerLife = LedgerLife.TestCase
TestLedgerLife.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)
