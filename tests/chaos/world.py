"""The world around the victim: a real deployment, healthy neighbours, and rounds with a visible sum."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray
from tests.chaos.counting import COLLECTION, SLOTS, WHOLE, counting_plan, example, summed
from tests.chaos.faults import ServerKill, ServerName
from tests.chaos.phone import AT_NIGHT
from urllib3.exceptions import HTTPError

from pocketfl.budgets import HARD_BOUNDS
from pocketfl.conditions import ScriptedSignals
from pocketfl.device import Device, DeviceLimits, PlanCache, RoundOutcome
from pocketfl.errors import TransportError
from pocketfl.plan import generate_signing_key, public_key_hex
from pocketfl.sealing import PinnedAggregator
from pocketfl.store import ExampleStore
from pocketfl_server.local import LocalDeployment
from pocketfl_server.optimizers import OptimizerSpec

TASK: Final = "counting"
PROTECTED_TASK: Final = "protected"
ROUND_SECONDS: Final = 20 * 86_400.0
NEIGHBOURS: Final = 2
EXAMPLES_PER_NEIGHBOUR: Final = 6
PATIENCE_SECONDS: Final = 120.0
"""A gateway leaves a trusted tier that did not answer alone for half of this."""
VICTIM_SLOTS: Final = SLOTS - NEIGHBOURS * EXAMPLES_PER_NEIGHBOUR
"""The victim's examples have the slots below this one."""


@dataclass(frozen=True, kw_only=True)
class Tally:
    """What a closed round says.

    Attributes
    ----------
    round : int
        Its number.
    state : str
        As the back end has it.
    accepted, rejected : int
        Reports in the sum, and those that the trusted tier left out.
    units : ndarray of int64, shape (P,)
        The sum in grid units, slot by slot; zeros for a round without a sum.
    is_readable : bool
        False under noise, where only the number of reports is seen.
    """

    round: int
    state: str
    accepted: int
    rejected: int
    units: NDArray[np.int64]
    is_readable: bool

    @property
    def has_victim(self) -> bool:
        """Whether the victim's report is in the sum."""
        return bool(self.victim) if self.is_readable else self.accepted > NEIGHBOURS

    @property
    def victim(self) -> dict[int, int]:
        """What the sum holds of the victim's examples, by slot."""
        return {slot: int(n) for slot, n in enumerate(self.units[:VICTIM_SLOTS]) if n}

    @property
    def neighbours_are_whole(self) -> bool:
        """Whether every example of the neighbours is in the sum, exactly once."""
        return bool((self.units[VICTIM_SLOTS:SLOTS] == WHOLE).all())

    @property
    def has_strays(self) -> bool:
        """Whether the sum holds an example that nobody had."""
        return bool(self.units[SLOTS:].any())


class World:
    """One deployment with one task, and neighbours that always do as they should; a context manager.

    Parameters
    ----------
    directory : Path
        For everything that it writes.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        signing_key = generate_signing_key()
        self.plan = counting_plan(signing_key)
        self.plan_key = public_key_hex(signing_key)
        self.protected_plan = counting_plan(signing_key, protected=True)
        self._deployment = LocalDeployment(directory / "server", plan_keys=[self.plan_key])
        self._neighbours: list[tuple[ExampleStore, Device]] = []
        self._model = self.plan.initial_parameters()
        self._round = 0
        self._task = TASK
        self._repairs: list[threading.Thread] = []
        self._broken: list[str] = []

    def __enter__(self) -> Self:
        self._deployment.start()
        try:
            self._settle()
        except BaseException:
            self.close()
            raise
        return self

    def _settle(self) -> None:
        operator = self._deployment.operator
        plain_averaging = OptimizerSpec(kind="sgd", learning_rate=1.0, momentum=0.0)
        for task, plan in ((TASK, self.plan), (PROTECTED_TASK, self.protected_plan)):
            operator.create_task(task, plan.data, optimizer=plain_averaging)
        self.aggregators = {
            task: operator.task(task).aggregator.public_key for task in (TASK, PROTECTED_TASK)
        }
        plans = PlanCache()
        for number in range(NEIGHBOURS):
            first = VICTIM_SLOTS + number * EXAMPLES_PER_NEIGHBOUR
            store = ExampleStore(self.directory / f"neighbour{number}.db")
            store.create_collection(COLLECTION)
            slots = range(first, first + EXAMPLES_PER_NEIGHBOUR)
            store.append(COLLECTION.name, [example(slot) for slot in slots])
            device = Device(
                store,
                server=self.url,
                plan_keys=[self.plan_key],
                aggregator=PinnedAggregator(*self.aggregators.values()),
                enrolment_key=self.enrolment_key,
                limits=DeviceLimits(allow_unprotected=True),
                # They take part in every round of a long day.
                budgets=HARD_BOUNDS,
                signals=ScriptedSignals.always(AT_NIGHT),
                plans=plans,
            )
            self._neighbours.append((store, device))

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop everything."""
        for repair in self._repairs:
            repair.join()
        for store, device in self._neighbours:
            device.close()
            store.close()
        self._neighbours.clear()
        self._deployment.stop()

    @property
    def url(self) -> str:
        """Of the back end."""
        return self._deployment.url

    @property
    def enrolment_key(self) -> str:
        """The app's."""
        return self._deployment.enrolment_key

    def open_round(self, *, task: str = TASK) -> int:
        """Open the next round of a task and return its number."""
        notice = self._deployment.operator.open_round(task, seconds=ROUND_SECONDS)
        self._round, self._task = notice.round, task
        return notice.round

    def kill_servers(self, processes: Iterable[ServerName], *, after: float = 0.0) -> None:
        """Kill processes of the back end with SIGKILL and start them again, meanwhile.

        Parameters
        ----------
        processes : iterable of {"gateway", "trusted"}
            Which, one after the other.
        after : float
            In so many seconds.
        """

        def work() -> None:
            time.sleep(after)
            try:
                for name in processes:
                    self._deployment.restart_killed(name)
            except Exception as error:
                self._broken.append(f"{type(error).__name__}: {error}")

        self._repairs.append(threading.Thread(target=work))
        self._repairs[-1].start()

    def wait_for_servers(self) -> None:
        """Wait until what was killed is back.

        Raises
        ------
        RuntimeError
            If it does not come back.
        """
        while self._repairs:
            self._repairs.pop().join()
        if self._broken:
            raise RuntimeError(f"the back end is not back: {self._broken}")

    def neighbours_report(self) -> list[str]:
        """Let the neighbours take part; return what went wrong."""
        outcomes = [self._take_part(device) for _, device in self._neighbours]
        return [
            f"a neighbour's round ended as {outcome.status}/{outcome.code}: {outcome.reason}"
            for outcome in outcomes
            if outcome.status != "completed"
        ]

    def _take_part(self, device: Device) -> RoundOutcome:
        """Run a neighbour's round; where the server has no place yet, it asks again as devices do."""
        until = time.monotonic() + PATIENCE_SECONDS
        while True:
            outcome = device.run_once(task=self._task)
            if outcome.status != "turned_away" or time.monotonic() > until:
                return outcome
            time.sleep(0.5)

    def close_round(self, killing: ServerKill | None = None) -> Tally:
        """Close the round, if need be in spite of killed servers, and read the sum off the model."""
        operator = self._deployment.operator
        if killing is not None:
            self.kill_servers(killing.processes, after=killing.after)
        try:
            result = operator.close_round(self._task, self._round)
        except (TransportError, HTTPError):
            if killing is None:
                raise
            self.wait_for_servers()
            result = operator.close_round(self._task, self._round)
        self.wait_for_servers()
        funnel = operator.funnel(self._task, self._round)
        units = np.zeros(len(self._model), dtype=np.int64)
        # Under noise there is nothing to read off.
        if result.new_version is not None and self._task == TASK:
            model = operator.model_parameters(TASK, result.new_version)
            units = summed(self._model, model, self.plan)
            self._model = model
        return Tally(
            round=self._round,
            state=result.state,
            accepted=funnel.accepted or 0,
            rejected=sum(funnel.rejected.values()),
            units=units,
            is_readable=self._task == TASK,
        )
