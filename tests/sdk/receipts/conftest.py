"""A device's file and a transport whose count a test moves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import pytest

from pocketfl.database import Database
from pocketfl.receipts import Contribution, Receipts
from pocketfl.transport import RequestKind, Traffic

NOW = 1_800_000_000.0
CONTRIBUTION = Contribution(
    task="clicks",
    round=3,
    plan_name="clicks",
    plan_version="1",
    plan_sha256="a" * 64,
    model_version=2,
    collection="visits",
    report_bytes=120,
    report_sha256="b" * 64,
    privacy="gaussian",
    clip_norm=0.5,
    cohort_floor=40,
    noise_multiplier=1.1,
    epsilon=0.75,
    epsilon_so_far=2.5,
    delta=1e-5,
    aggregator_key_id="c" * 64,
    attestation="pinned key",
)


def contribution(**changes: object) -> Contribution:
    return replace(CONTRIBUTION, **changes)


@dataclass
class Wire:
    """Counts what a test says was sent and received."""

    total: Traffic = field(default_factory=Traffic)

    def __call__(self) -> Traffic:
        return self.total

    def carry(self, kind: RequestKind, *, up: int = 0, down: int = 0) -> None:
        self.total = self.total.with_request(kind, up=up, down=down)


@pytest.fixture
def wire() -> Wire:
    return Wire()


@pytest.fixture
def open_book(database: Database) -> Callable[..., Receipts]:
    """Opens a book over the test's file, as a new process would."""
    return lambda wire=None: Receipts(database, traffic=wire, clock=lambda: NOW)
