"""Counts hostile inputs over all tests of this folder, and says so at the end."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from pocketfl.plan import Plan
from pocketfl_benchmarks.aggregate.measurement import placeholder_plan
from pocketfl_server.back_end import BackEnd
from pocketfl_server.optimizers import OptimizerSpec
from pocketfl_server.trusted.aggregator import Aggregator

ENROLMENT_KEY = "enrolment-key-of-this-test"
DEVICES = 100


@dataclass
class Hostile:
    """What was tried, and what must never have happened."""

    tried: int = 0
    server_errors: int = 0
    model_changes: int = 0


HOSTILE = Hostile()


@pytest.fixture
def hostile() -> Hostile:
    """The one count of the run."""
    return HOSTILE


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the count, if anything was tried."""
    if HOSTILE.tried:
        terminalreporter.write_line(
            f"hostile inputs: {HOSTILE.tried} tried, {HOSTILE.server_errors} server errors, "
            f"{HOSTILE.model_changes} model changes"
        )


@pytest.fixture(scope="session")
def plan() -> Plan:
    """A signed plan of a small model."""
    return placeholder_plan(40, DEVICES, None)


@pytest.fixture
def trusted(tmp_path: Path, plan: Plan) -> Iterator[Aggregator]:
    """A trusted tier."""
    with Aggregator(tmp_path / "ledger.db", plan_keys=[plan.signed_by]) as tier:
        yield tier


@pytest.fixture
def back_end(tmp_path: Path, plan: Plan, trusted: Aggregator) -> Iterator[BackEnd]:
    """A back end with a task and an open round."""
    with BackEnd(
        f"sqlite:///{tmp_path / 'back_end.db'}",
        trusted=trusted,
        plan_keys=[plan.signed_by],
        enrolment_key=ENROLMENT_KEY,
    ) as opened:
        optimizer = OptimizerSpec(kind="sgd", learning_rate=1.0, momentum=0.0)
        opened.create_task("clicks", plan.data, optimizer=optimizer)
        opened.open_round("clicks", seconds=600)
        yield opened


@pytest.fixture(scope="session")
def mutate() -> object:
    """:func:`mutation.mutate`."""
    spec = importlib.util.spec_from_file_location(
        "mutation", Path(__file__).with_name("mutation.py")
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.mutate
