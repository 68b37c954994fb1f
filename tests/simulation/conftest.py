"""A task and a fleet that several tests simulate."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tests.simulation.visits import DEVICES, configuration, examples_of

from pocketfl_simulation import PackedData, SimulationTask
from pocketfl_simulation.files import from_columns
from pocketfl_simulation.tasks import make_task


@pytest.fixture(scope="session")
def make() -> Callable[..., SimulationTask]:
    """Exports the task under changed rules."""
    return lambda **changes: make_task(configuration(**changes))


@pytest.fixture(scope="session")
def task(make: Callable[..., SimulationTask]) -> SimulationTask:
    """The task as it stands."""
    return make()


@pytest.fixture(scope="session")
def fleet(task: SimulationTask) -> PackedData:
    """What the devices hold, as their plan reads it."""
    rows = [(f"user{n:02}", row) for n in range(DEVICES) for row in examples_of(n)]
    columns = {name: [row[name] for _, row in rows] for name in ("place", "minutes", "rating")}
    columns["user"] = [user for user, _ in rows]
    return from_columns(columns, task.plan.manifest, user="user")
