"""The world around the victim: a real deployment, healthy neighbours, and rounds with a visible sum."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray
from tests.chaos.counting import COLLECTION, SLOTS, WHOLE, counting_plan, example, summed
from tests.chaos.phone import AT_NIGHT

from pocketfl.budgets import HARD_BOUNDS
from pocketfl.conditions import ScriptedSignals
from pocketfl.device import Device, DeviceLimits, PlanCache
from pocketfl.plan import generate_signing_key, public_key_hex
from pocketfl.sealing import PinnedAggregator
from pocketfl.store import ExampleStore
from pocketfl_server.local import LocalDeployment
from pocketfl_server.optimizers import OptimizerSpec

TASK: Final = "counting"
ROUND_SECONDS: Final = 20 * 86_400.0
NEIGHBOURS: Final = 2
EXAMPLES_PER_NEIGHBOUR: Final = 6
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
    """

    round: int
    state: str
    accepted: int
    rejected: int
    units: NDArray[np.int64]

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
        self._deployment = LocalDeployment(directory / "server", plan_keys=[self.plan_key])
        self._neighbours: list[tuple[ExampleStore, Device]] = []
        self._model = self.plan.initial_parameters()
        self._round = 0

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
        operator.create_task(TASK, self.plan.data, optimizer=plain_averaging)
        self.aggregator = operator.task(TASK).aggregator.public_key
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
                aggregator=PinnedAggregator(self.aggregator),
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

    def open_round(self) -> int:
        """Open the next round and return its number."""
        notice = self._deployment.operator.open_round(TASK, seconds=ROUND_SECONDS)
        self._round = notice.round
        return notice.round

    def neighbours_report(self) -> list[str]:
        """Let the neighbours take part; return what went wrong."""
        outcomes = [device.run_once(task=TASK) for _, device in self._neighbours]
        return [
            f"a neighbour's round ended as {outcome.status}/{outcome.code}: {outcome.reason}"
            for outcome in outcomes
            if outcome.status != "completed"
        ]

    def close_round(self) -> Tally:
        """Close the round and read the sum off the model."""
        operator = self._deployment.operator
        result = operator.close_round(TASK, self._round)
        funnel = operator.funnel(TASK, self._round)
        units = np.zeros(len(self._model), dtype=np.int64)
        if result.new_version is not None:
            model = operator.model_parameters(TASK, result.new_version)
            units = summed(self._model, model, self.plan)
            self._model = model
        return Tally(
            round=self._round,
            state=result.state,
            accepted=funnel.accepted or 0,
            rejected=sum(funnel.rejected.values()),
            units=units,
        )
