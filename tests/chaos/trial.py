"""One run: a round with a fault in it, the recovery, the next round, and the questions at the end."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from tests.chaos.counting import EPSILON_DELTA, NOISE_MULTIPLIER, WHOLE
from tests.chaos.damage import DamagedFile, damage, find_whole_copy
from tests.chaos.faults import (
    BYTE_MEASURES,
    COUNT_MEASURES,
    NO_FAULTS,
    Budget,
    ClockJump,
    Faults,
    Point,
    RandomTime,
    Scenario,
    WireMoment,
    WirePoint,
)
from tests.chaos.phone import Orders
from tests.chaos.proxy import FaultyProxy
from tests.chaos.scenarios import Itinerary
from tests.chaos.verdict import Verdict
from tests.chaos.victim import SessionRecord, live
from tests.chaos.world import NEIGHBOURS, PROTECTED_TASK, ROUND_SECONDS, TASK, Tally, World

from pocketfl.budgets.epsilon import contribution_rho, epsilon_of

RECOVERIES: Final = 6
"""Sessions in which a device must have found out how its contribution ended."""
HELD_BACK_SECONDS: Final = 25 * 3600.0
"""After so long a device that lost its memory has to take part again."""
DAMAGED_SESSIONS: Final = 3
"""Further sessions in which a device with a damaged file has to be back in the next round."""
FIRST_EXAMPLES: Final = 40
LATER_EXAMPLES: Final = 4
MEANWHILE: Final = 16

_ENDED: Final = frozenset({"uploaded", "abandoned", "tails", "capped"})


class Trial:
    """Carries one scenario out.

    Parameters
    ----------
    world : World
        With no round under way.
    scenario : Scenario
        What happens.
    directory : Path
        For the victim's files; empty.
    """

    def __init__(self, world: World, scenario: Scenario, directory: Path) -> None:
        self._world = world
        self._scenario = scenario
        self._store = directory / "device.db"
        budget = scenario.budget
        # Only where there is noise is there an epsilon.
        self._is_protected = budget is not None and budget.measure == "epsilon"
        self._task = PROTECTED_TASK if self._is_protected else TASK
        self._servers_are_well = True
        self._slots = itertools.count()
        self._sessions: list[SessionRecord] = []
        self._intended: set[int] = set()
        self._harmed: DamagedFile | None = None
        self._sessions_before_damage = 0
        self._ended: str | None = None
        self._verdict = Verdict(runs=1, families=Counter([scenario.family]))
        if budget is not None:
            self._verdict.budgets[budget.measure] += 1
        self._proxy = FaultyProxy(world.url, seed=scenario.number)

    def run(self) -> Verdict:
        """Return what was wrong."""
        try:
            self._round_with_faults()
            self._next_round()
            self._examples_are_there()
        finally:
            self._proxy.close()
            self._world.wait_for_servers()
        return self._verdict

    # The story.

    def _round_with_faults(self) -> None:
        scenario, world = self._scenario, self._world
        number = world.open_round(task=self._task)
        problems: list[str] = []
        if scenario.healthy_first:
            problems += world.neighbours_report()
        self._live(FIRST_EXAMPLES, faults=scenario.first, servers_too=True)
        # As for any device, the next time is long after.
        world.wait_for_servers()
        if scenario.damage is not None:
            self._harmed = damage(self._store, scenario.damage)
            self._sessions_before_damage = len(self._sessions)
        self._ended = state = self._recover(number)
        if not scenario.healthy_first:
            problems += world.neighbours_report()
        for problem in problems:
            self._wrong("unrecovered", problem)
        tally = self._close_first_round()
        self._check_sum(tally)
        self._check_budget()
        self._verdict.counted["counted" if tally.has_victim else "not counted"] += 1
        if state is not None and not self._has_lost_memory:
            receipt = (self._sessions[-1].last("receipts") or {}).get(str(number), "no receipt")
            knows = (state == "uploaded", receipt == "accepted")
            if knows != (tally.has_victim, tally.has_victim):
                self._wrong(
                    "unrecovered",
                    f"the device says {state} and {receipt}, its report is "
                    f"{'' if tally.has_victim else 'not '}in the sum ({tally.accepted} accepted, "
                    f"{tally.rejected} rejected)",
                )

    def _close_first_round(self) -> Tally:
        kill = self._scenario.server
        if kill is None or kill.at is not None:
            return self._world.close_round()
        self._verdict.servers_killed.update(kill.processes)
        return self._world.close_round(kill)

    def _recover(self, number: int) -> str | None:
        """Start the victim until it says how its contribution ended; return that."""
        ended = self._how_it_ended(number)
        faults = self._scenario.second
        for attempt in range(RECOVERIES):
            if self._scenario.budget is not None and attempt == RECOVERIES - 1:
                # What the budget keeps from being finished ends with its lease.
                faults = Faults(clock=ClockJump(at=None, seconds=2 * ROUND_SECONDS))
            # A session that ended by itself may know all there is; what is to happen still happens.
            if ended is not None and faults == NO_FAULTS and self._harmed is None:
                return ended
            self._live(LATER_EXAMPLES // 2, faults=faults)
            if self._harmed is not None and faults == NO_FAULTS:
                self._check_quarantine()
            faults = NO_FAULTS
            ended = self._how_it_ended(number)
            if ended is not None:
                return ended
        said = [(s.killed, s.last("outcome"), s.last("rounds")) for s in self._sessions]
        self._wrong(
            "unrecovered", f"after {RECOVERIES} sessions it does not know how it ended: {said}"
        )
        return None

    def _next_round(self) -> None:
        number = self._world.open_round(task=self._task)
        required = self._acknowledged
        record = self._take_part_again(number)
        if self._has_lost_memory and _code(record) == "already_checked_in":
            # Damage came to light when the device had its place already: that went with the file, and
            # the round goes on without it.
            self._world.close_round()
            number = self._world.open_round(task=self._task)
            record = self._take_part_again(number)
        tally = self._world.close_round()
        state = (record.last("rounds") or {}).get(str(number))
        if self._scenario.budget is not None:
            self._check_next_on_budget(tally)
            return
        if state != "uploaded" or not tally.has_victim:
            self._wrong(
                "unrecovered",
                f"the next round: outcome {record.last('outcome')}, state {state}, "
                f"{'' if tally.has_victim else 'not '}in the sum",
            )
            return
        if not self._may_lack_examples:
            required |= set(_before_check_in([record]))
            self._check_contribution(tally, required)

    def _take_part_again(self, number: int) -> SessionRecord:
        """Run the sessions that it takes to take part in a round; return the last one."""
        jump = self._scenario.next_clock
        faults = Faults(clock=ClockJump(at=None, seconds=jump)) if jump else NO_FAULTS
        record = self._live(LATER_EXAMPLES, meanwhile=2, faults=faults)
        for _ in range(DAMAGED_SESSIONS if self._has_lost_memory else 0):
            # Damage may come to light only now; a device that lost its memory says so and waits, so
            # that it does not report twice; and a lease that it still has is ended first.
            if (record.last("rounds") or {}).get(str(number)) == "uploaded":
                break
            if _code(record) == "already_checked_in":
                break
            if (record.last("outcome") or {}).get("status") == "ineligible":
                faults = Faults(clock=ClockJump(at=None, seconds=HELD_BACK_SECONDS))
            record = self._live(LATER_EXAMPLES, meanwhile=2, faults=faults)
        return record

    def _examples_are_there(self) -> None:
        present = self._sessions[-1].last("present")
        if present is None:
            return  # that session has failed, which has been found
        lost = self._acknowledged - set(present)
        if lost and not self._may_lack_examples:
            self._wrong("examples_lost", f"slots {sorted(lost)}", count=len(lost))
        strange = sorted(set(present) - self._intended)
        if self._has_lost_memory:
            # The app repeats what a damaged file refused, and more may be saved than was said.
            present = []
        strange += [slot for slot, n in Counter(present).items() if n > 1]
        refused = {slot for s in self._sessions for part in s.told("refused") for slot in part}
        strange += sorted(refused & set(present))
        if strange:
            self._wrong("unrecovered", f"examples that should not be there, or twice: {strange}")

    def _live(
        self,
        examples: int,
        *,
        meanwhile: int = MEANWHILE,
        faults: Faults = NO_FAULTS,
        servers_too: bool = False,
    ) -> SessionRecord:
        """Run one session of the victim and see that its app had no other trouble than the faults."""
        before = tuple(itertools.islice(self._slots, examples))
        later = tuple(itertools.islice(self._slots, meanwhile))
        self._intended |= {*before, *later}
        orders = self._orders(before=before, meanwhile=later, faults=faults)
        watcher = self._kill_servers_at if servers_too else None
        record = live(orders, self._proxy, watcher=watcher)
        self._sessions.append(record)
        if record.killed:
            self._verdict.killed_at[_name(faults)] += 1
        for crash in record.told("crashed"):
            self._wrong("unrecovered", f"the app was taken down: {crash}")
        if record.hung:
            self._wrong("unrecovered", "a session hangs")
        if not (record.is_over or record.killed or record.hung):
            self._wrong("unrecovered", "a session died by itself")
        for what in ("unusable", "error"):
            # A damaged file refuses examples until the app opens it again.
            expected = faults.disk is not None or (what == "error" and self._has_lost_memory)
            for text in () if expected else record.told(what):
                self._wrong("unrecovered", f"the app's store failed without a reason: {text}")
        return record

    def _kill_servers_at(self, request: str, moment: WireMoment) -> None:
        kill = self._scenario.server
        if kill is None or not self._servers_are_well:
            return
        if kill.at == WirePoint(request=request, moment=moment):
            self._servers_are_well = False
            self._verdict.servers_killed.update(kill.processes)
            self._world.kill_servers(kill.processes, after=kill.after)

    def _orders(
        self, *, before: tuple[int, ...], meanwhile: tuple[int, ...], faults: Faults
    ) -> Orders:
        return Orders(
            store=self._store,
            url=self._proxy.url,
            enrolment_key=self._world.enrolment_key,
            plan_key=self._world.plan_key,
            aggregator=self._world.aggregators[self._task],
            task=self._task,
            protected=self._is_protected,
            before=before,
            meanwhile=meanwhile,
            batch_seconds=self._scenario.batch_seconds,
            checkpoint_seconds=self._scenario.checkpoint_seconds,
            budget=self._scenario.budget,
            patient=faults.network is None and self._servers_are_up,
            faults=faults,
        )

    @property
    def _servers_are_up(self) -> bool:
        """Whether no server is killed in the session that comes next."""
        kill = self._scenario.server
        return kill is None or kill.at is None or bool(self._sessions)

    # The questions.

    def _how_it_ended(self, number: int) -> str | None:
        record = self._sessions[-1]
        if not record.is_over or record.last("rounds") is None:
            return None
        state = record.last("rounds").get(str(number))
        outcome = record.last("outcome") or {}
        if self._has_lost_memory and outcome.get("status") == "ineligible":
            return "forgotten"
        if number in record.last("pending"):
            return None
        if state in _ENDED:
            return str(state)
        if outcome.get("status") == "turned_away" and outcome.get("round") == number:
            return "turned_away"
        # A plan's download is charged, too: there may be no room left once the coin is tossed.
        may_go = state in (None, "tossed")
        if self._scenario.budget is not None and may_go and outcome.get("code") == "budget":
            return "refused"
        if self._has_lost_memory and outcome.get("status") == "no_round":
            return "forgotten"
        return None

    def _check_sum(self, tally: Tally) -> None:
        """See that the sum is the neighbours' and the victim's contribution, whole, once or never."""
        expected = NEIGHBOURS + tally.has_victim
        # A device that has no usable example any more reports zeros, as every device does.
        zeros = self._may_lack_examples and self._ended == "uploaded" and not tally.victim
        if tally.accepted != expected + zeros:
            self._wrong("double_counted", f"{tally.accepted} reports are in the sum of {expected}")
        if not tally.is_readable:
            return
        if not tally.neighbours_are_whole:
            self._wrong("double_counted", "the neighbours' part of the sum is not what they sent")
        if tally.has_strays:
            self._wrong("double_counted", "the sum holds what nobody sent")
        if tally.victim:
            self._check_contribution(tally, set(_before_check_in(self._sessions)))

    def _check_contribution(self, tally: Tally, required: set[int]) -> None:
        twice = {slot: n for slot, n in tally.victim.items() if n > WHOLE}
        if twice:
            self._wrong("double_counted", f"units of slots that should be {WHOLE}: {twice}")
        part = {slot: n for slot, n in tally.victim.items() if n < WHOLE}
        if part:
            self._wrong("half_reports", f"units of slots that should be {WHOLE}: {part}")
        lacks = required - set(tally.victim)
        if lacks and not self._may_lack_examples:
            self._wrong("half_reports", f"the report lacks the slots {sorted(lacks)}")
        strange = set(tally.victim) - self._intended
        if strange:
            self._wrong("double_counted", f"slots that the app never kept: {sorted(strange)}")

    def _check_budget(self) -> None:
        """See that nothing began after the budget was used up, but for one step or message."""
        budget = self._scenario.budget
        if budget is None or budget.measure in COUNT_MEASURES:
            return
        if budget.measure in BYTE_MEASURES:
            self._check_bytes(budget)
            return
        spent = 0.0
        beyond = 0
        for session in self._sessions:
            steps = session.steps(cpu=budget.measure == "cpu_seconds")
            beyond += sum(spent + began > budget.amount for began, _ in steps)
            spent += steps[-1][1] if steps else 0.0
        if beyond > 1:
            self._wrong(
                "budget_overspends",
                f"{beyond} batches began after {budget}; {spent:.3f} were spent",
            )

    def _check_bytes(self, budget: Budget) -> None:
        """The same of the messages of a round; looking for rounds is not part of one."""
        # Looking for rounds costs every device the same, and is charged with what it leads to.
        up = budget.measure == "bytes_up"
        kinds = ("check_in", "upload") if up else ("plan", "parameters")
        spent = beyond = 0
        for exchange in self._proxy.exchanges:
            if exchange.request not in kinds:
                continue
            beyond += spent > budget.amount
            spent += exchange.up if up else exchange.down
        if beyond > 1:
            self._wrong(
                "budget_overspends", f"{beyond} messages began after {budget}; {spent} were spent"
            )

    def _check_next_on_budget(self, tally: Tally) -> None:
        """See that a day's contributions are not exceeded, and others are not held back."""
        budget = self._scenario.budget
        if tally.victim:
            self._check_contribution(tally, set(_before_check_in(self._sessions[-1:])))
        if budget is None or budget.measure not in COUNT_MEASURES:
            return
        # True time is what counts, whatever the clock says: both rounds are of one day.
        made = self._verdict.counted["counted"] + tally.has_victim
        spent: float = made
        if budget.measure == "epsilon":
            rho = made * contribution_rho(NOISE_MULTIPLIER)
            spent = epsilon_of(rho, delta=EPSILON_DELTA)
        if spent > budget.amount:
            self._wrong("budget_overspends", f"{made} contributions, {spent:g} of {budget}")
        if made == 0 and self._ended == "abandoned" and self._scenario.next_clock == 0:
            outcome = self._sessions[-1].last("outcome")
            self._wrong("unrecovered", f"no contribution in two rounds: {outcome}")

    def _check_quarantine(self) -> None:
        """See that a file that was set aside is all there."""
        harmed = self._harmed
        moved = self._sessions[-1].told("quarantined")
        if harmed is None or not moved:
            return
        if not Path(moved[0]).exists():
            self._wrong("examples_lost", f"the damaged file is not at {moved[0]}")
        # A file with a log may be brought up to date by whoever reads it once more.
        elif (
            self._found_when_opened
            and not harmed.has_log
            and find_whole_copy(self._store, harmed.content) is None
        ):
            self._wrong("examples_lost", "the damaged file was not set aside as it was")

    @property
    def _found_when_opened(self) -> bool:
        """Whether damage came to light at once: an app that met it later had written around it."""
        first, *later = self._sessions[self._sessions_before_damage :]
        beginning = [event for event in first.events[:2] if "ready" not in event]
        return not later and any("quarantined" in event for event in beginning)

    @property
    def _acknowledged(self) -> set[int]:
        return {slot for session in self._sessions for slot in session.acknowledged}

    @property
    def _has_lost_memory(self) -> bool:
        return self._harmed is not None and self._harmed.changed

    @property
    def _may_lack_examples(self) -> bool:
        """Whether the file was set aside, or lost its log: SQLite takes the log's intact beginning."""
        if self._harmed is None or not self._harmed.changed:
            return False
        moved = any(session.told("quarantined") for session in self._sessions)
        assert self._scenario.damage is not None
        return moved or self._scenario.damage.kind == "log"

    def _wrong(self, what: str, text: str, *, count: int = 1) -> None:
        setattr(self._verdict, what, getattr(self._verdict, what) + count)
        self._verdict.notes.append(f"{what}: {text}\n    in {self._scenario}")


def explore(world: World, directory: Path) -> Itinerary:
    """Run one undisturbed session and note what it passes through.

    Raises
    ------
    RuntimeError
        If it does not take part: then nothing can be learnt from faults either.
    """
    scenario = Scenario(number=0, family="none", first=Faults())
    trial = Trial(world, scenario, directory)
    verdict = trial.run()
    first = trial._sessions[0]
    if not verdict.is_good or len(trial._sessions) != 2:
        raise RuntimeError("an undisturbed run fails:\n" + "\n".join(verdict.notes))
    entered = [event["place"] for event in first.events if event.get("edge") == "enter"]
    places = first.last("places")
    return Itinerary(
        phases=tuple(dict.fromkeys(name for name in entered if name != "checkpoint")),
        requests=tuple(sorted(name for name in trial._proxy.requests if name != "other")),
        statements=places["statement"],
        batches=places["batch"],
        checkpoints=places.get("checkpoint", 0),
        seconds=first.seconds,
    )


def _before_check_in(sessions: Iterable[SessionRecord]) -> list[int]:
    """Return the examples that the store had acknowledged when the device first asked for a place."""
    found: list[int] = []
    for session in sessions:
        for event in session.events:
            if event.get("place") == "check_in":
                return found
            found += event.get("acknowledged", [])
    return found


def _code(record: SessionRecord) -> str | None:
    """Return the code of how a session ended, if it did."""
    outcome = record.last("outcome") or {}
    return None if outcome.get("code") is None else str(outcome["code"])


def _name(faults: Faults) -> str:
    match faults.kill:
        case Point(name=name):
            return name
        case WirePoint():
            return "wire"
        case RandomTime():
            return "random"
        case None:
            return "unplanned"
