"""When a report leaves was decided before the device looked at its data."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from pocketfl.device import Device, DeviceLimits, RoundOutcome
from pocketfl.device.plans import PlanCache
from pocketfl.features.transforms import FieldSpec
from pocketfl.plan import AggregationSpec, Plan
from pocketfl.queries import Count, QuerySet
from pocketfl.queries.plans import write_analytics_plan
from pocketfl.sealing import PinnedAggregator
from pocketfl.store import ExampleStore
from pocketfl_server.back_end import BackEnd
from pocketfl_server.in_process import InProcessTransport

FEW = AggregationSpec(
    clip_norm=1.0, population=2, cohort_floor=2, max_rounds=5, max_participations=5
)


@pytest.fixture
def question(tmp_path: Path, modeller_key: Ed25519PrivateKey) -> Callable[[str, float], Plan]:
    def write(name: str, delay: float) -> Plan:
        return write_analytics_plan(
            tmp_path / f"{name}.plan",
            name=name,
            version="1",
            collection="visits",
            fields=[FieldSpec(name="minutes", type="float")],
            queries=QuerySet(queries=(Count(name="n"),), upload_delay_seconds=delay),
            aggregation=FEW,
            dp=None,
            signing_key=modeller_key,
        )

    return write


def test_a_report_waits_its_time_and_holds_nothing_else_up(
    back_end: BackEnd,
    clock: Any,
    question: Callable[[str, float], Plan],
    open_store: Callable[..., ExampleStore],
) -> None:
    """With or without data, over restarts: made at once, sent after a tenth of the delay to all of it.

    Another task's round goes on meanwhile, and the waiting round is not begun a second time.
    """
    slow, prompt = question("slow", 1000.0), question("prompt", 0.0)
    stores = [
        open_store("full", [{"place": "home", "minutes": 5.0, "rating": 4.0}]),
        open_store("empty", []),
    ]
    plans = PlanCache()

    def run(store: ExampleStore, task: str | None = None, *, answers: bool = True) -> RoundOutcome:
        with Device(
            store,
            server=InProcessTransport(back_end),
            plan_keys=[slow.signed_by],
            aggregator=PinnedAggregator(back_end.task(task or "slow").aggregator.public_key),
            enrolment_key="an-enrolment-key-of-the-app",
            limits=DeviceLimits(allow_unprotected=True, allow_queries=answers),
            plans=plans,
            clock=clock,
        ) as device:
            return device.run_once(task=task)

    back_end.create_task("slow", slow.data)
    back_end.open_round("slow", seconds=7200)
    refused = run(stores[0], answers=False)
    assert (refused.status, refused.code) == ("ineligible", "plan_refused")
    for store in stores:
        first = run(store)
        assert (first.status, first.code, first.resumable) == ("interrupted", "upload_waits", True)
        assert first.retry_after is not None and 99 < first.retry_after <= 900
        assert "upload" not in first.phases
    assert back_end.funnel("slow", 1).uploaded == 0
    clock.ahead = 95.0
    assert {run(store).code for store in stores} == {"upload_waits"}
    back_end.create_task("prompt", prompt.data)
    back_end.open_round("prompt", seconds=7200)
    assert {run(store, "prompt").code for store in stores} == {"reported"}
    funnel = back_end.funnel("slow", 1)
    assert (funnel.checked_in, funnel.uploaded) == (2, 0)
    clock.ahead = 1001.0
    assert {run(store).code for store in stores} == {"reported"}
    back_end.close_round("slow", 1)
    assert back_end.result("slow", 1).find("n").values == pytest.approx((1.0,), abs=0.01)
