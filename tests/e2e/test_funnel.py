"""A fleet's log tells what goes wrong in it, from noised counters alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from pocketfl.conditions import ConditionSpec, Signals
from pocketfl.device import Device, DeviceLimits, RoundOutcome
from pocketfl.device.plans import PlanCache
from pocketfl.errors import TransportError
from pocketfl.funnel import event, funnel_query
from pocketfl.plan import (
    AggregationSpec,
    BudgetSpec,
    DifferentialPrivacySpec,
    EligibilitySpec,
    Plan,
)
from pocketfl.plan.manifest import PARAMETERS_PART
from pocketfl.protocol import ReportReceipt
from pocketfl.queries import QuerySet
from pocketfl.queries.plans import write_analytics_plan
from pocketfl.reports import SealedReport
from pocketfl.sealing import PinnedAggregator
from pocketfl.store import ExampleStore
from pocketfl_server.back_end import BackEnd
from pocketfl_server.in_process import InProcessTransport
from pocketfl_server.optimizers import OptimizerSpec

DEVICES = 16
FLEETS = ("network", "model", "memory")
ASKED = (
    event("accepted"),
    event("error", "network"),
    event("error", "model"),
    event("interrupted", "memory"),
)
NOISE_MULTIPLIER = 0.8


class Hurried:
    """The same clock for one device, on which a look takes three seconds: it looks around often."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._looks = 0

    def __call__(self) -> float:
        self._looks += 1
        return self._clock() + 3.0 * self._looks


class NoUploads(InProcessTransport):
    """A line that breaks whenever a report is sent."""

    broken = True

    def upload(self, lease: str, report: SealedReport) -> ReportReceipt:
        if self.broken:
            raise TransportError("the line is dead", code="unreachable", retryable=True)
        return super().upload(lease, report)


class ShortOfMemory:
    """A device whose memory runs out once it trains."""

    def __init__(self) -> None:
        self.looks = 0

    def read(self) -> Signals:
        self.looks += 1
        return Signals(free_memory_bytes=2**30 if self.looks <= 1 else 2**20)


@pytest.fixture
def log_plan(tmp_path: Path, modeller_key: Ed25519PrivateKey) -> Callable[[str], Plan]:
    """Writes a plan that asks for the log of the day before."""

    def write(name: str) -> Plan:
        return write_analytics_plan(
            tmp_path / f"{name}.plan",
            name=name,
            version="1",
            collection="funnel",
            fields=(),
            queries=QuerySet(
                queries=(funnel_query(events=ASKED, max_events=4),), upload_delay_seconds=0.0
            ),
            aggregation=AggregationSpec(
                clip_norm=1.0,
                population=DEVICES,
                cohort_floor=DEVICES,
                max_rounds=300,
                max_participations=300,
            ),
            dp=DifferentialPrivacySpec(noise_multiplier=NOISE_MULTIPLIER, epsilon=8.0, delta=1e-5),
            budget=BudgetSpec(name=name, epsilon=8.0, delta=1e-5, unit="device-day"),
            signing_key=modeller_key,
        )

    return write


def test_a_network_fault_a_model_fault_and_a_memory_fault_are_told_apart(
    back_end: BackEnd,
    clock: Any,
    plan_with: Callable[..., Plan],
    exported: Plan,
    log_plan: Callable[[str], Plan],
    open_store: Callable[..., ExampleStore],
) -> None:
    """Three fleets fail in three ways while they train; the next day's log names each one's fault.

    The counter of the true fault is 16 and the others are 0, under noise of standard deviation 1.6.
    Half of 16 is five of these, so one of twelve counters is on the wrong side less than once in 10**5
    runs.
    Nothing else of what happened is in the answer, and the devices' budget of a year is not touched.
    """
    aggregation = AggregationSpec(
        clip_norm=0.5, population=DEVICES, cohort_floor=1, max_rounds=9, max_participations=9
    )
    conditions = replace(ConditionSpec.none(), min_free_memory_bytes=2**27)
    # Infinity less infinity in the output: no number.
    signs = np.random.default_rng(1).choice([-1, 1], exported.initial_parameters().shape)
    broken = (3e38 * signs).astype("<f4").tobytes()
    parts = {part.name: exported.part(part.name) for part in exported.manifest.parts}
    plans = {
        "network": plan_with(name="network", aggregation=aggregation),
        "model": plan_with(
            name="model", aggregation=aggregation, parts=parts | {PARAMETERS_PART: broken}
        ),
        "memory": plan_with(
            name="memory",
            aggregation=aggregation,
            eligibility=EligibilitySpec(conditions=conditions),
        ),
    }
    cache = PlanCache()
    examples = [{"place": "home", "minutes": 5.0, "rating": 4.0}] * 20
    stores = {name: [open_store(f"{name}{n}", examples) for n in range(DEVICES)] for name in FLEETS}

    def run(fleet: str, task: str) -> list[RoundOutcome]:
        key = back_end.task(task).aggregator.public_key
        outcomes = []
        for number, store in enumerate(stores[fleet]):
            transport = NoUploads(back_end) if fleet == "network" else InProcessTransport(back_end)
            if task != fleet:
                transport.broken = False
            short = fleet == "memory" and task == fleet
            with Device(
                store,
                server=transport,
                plan_keys=[exported.signed_by],
                aggregator=PinnedAggregator(key),
                enrolment_key="an-enrolment-key-of-the-app",
                user=f"{fleet}{number}",
                signals=ShortOfMemory() if short else None,
                limits=DeviceLimits(max_daily_epsilon=8.0),
                plans=cache,
                clock=Hurried(clock) if short else clock,
            ) as device:
                before = device.ledger.privacy(delta=1e-5)
                outcomes.append(device.run_once(task=task))
                after = device.ledger.privacy(delta=1e-5)
                if task != fleet:
                    # An abandoned session gives back what it had set aside.
                    assert after.rho <= before.rho
                    assert after.unprotected == 0
        return outcomes

    for fleet, plan in plans.items():
        optimizer = OptimizerSpec(kind="sgd", learning_rate=1.0)
        back_end.create_task(fleet, plan.data, optimizer=optimizer)
        back_end.open_round(fleet, seconds=3600)
        expected = "interrupted" if fleet == "memory" else "failed"
        assert {outcome.status for outcome in run(fleet, fleet)} == {expected}
    # A waiting report would be sent first; its round is over by noon of the next day.
    clock.ahead = 1.5 * 86_400.0 - clock() % 86_400.0
    for fleet in FLEETS:
        task = f"log-{fleet}"
        back_end.create_task(task, log_plan(task).data)
        back_end.open_round(task, seconds=3600)
        outcomes = run(fleet, task)
        assert {(o.status, o.reason) for o in outcomes} == {("completed", outcomes[0].reason)}
        back_end.close_round(task, 1)
        result = back_end.result(task, 1)
        found = result.find("funnel")
        assert found.noise_std == pytest.approx(2 * NOISE_MULTIPLIER)
        counted = dict(zip((f"{e.phase}/{e.reason}" for e in ASKED), found.values, strict=True))
        likely = {name for name, count in counted.items() if count > DEVICES / 2}
        fault = "interrupted/memory" if fleet == "memory" else f"error/{fleet}"
        assert likely == {fault}, counted
        # Every day is in one release, so a second day costs no more than the first.
        assert result.budget is not None and result.budget.spent <= 8.0
        assert result.budget.unit == "device-day"
