"""Devices that come at a steady rate, round after round, and what the processes make of it."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np

from pocketfl.plan import Plan
from pocketfl.protocol import RoundNotice
from pocketfl_benchmarks.scale import fleet, processes
from pocketfl_benchmarks.scale.load import Outcome, Prepared, send_all
from pocketfl_server.local import LocalDeployment
from pocketfl_server.optimizers import OptimizerSpec

TASK: Final = "soak"
WARM_UP_PART: Final = 0.2
"""Memory is judged after this part of the time: imports, caches and pools are full by then."""
MARGIN_SECONDS: Final = 12.0
"""Before a round's end so long no device begins: none comes too late on a slow machine."""
_CONNECTIONS: Final = 4
_AVERAGING: Final = OptimizerSpec(kind="sgd", learning_rate=1.0, momentum=0.0)


@dataclass(frozen=True, kw_only=True)
class SoakSettings:
    """How long, and how much.

    Attributes
    ----------
    minutes : float
        Of load.
    rate : float
        Devices a second; each checks in, downloads plan and parameters, and reports.
    round_seconds : float
        Of each round.
    parameters : int
        Of the model.
    sample_seconds : float
        Between two looks at the processes.
    """

    minutes: float = 30.0
    rate: float = 5.0
    round_seconds: float = 40.0
    parameters: int = 2177
    sample_seconds: float = 5.0

    @property
    def devices(self) -> int:
        """Devices of a round; the same ones come to the next."""
        return max(2, int(self.rate * (self.round_seconds - MARGIN_SECONDS)))


@dataclass
class Soak:
    """What came of it.

    Attributes
    ----------
    statuses : dict of str to Counter of int
        HTTP statuses of each kind of request; 0 for no answer.
    rounds : Counter of str
        Ended rounds by state.
    turned_away, reports, in_sums : int
        Devices without a place, reports with a receipt, and reports in the sums of ended rounds.
    latencies : list of float
        Of every request, in seconds.
    samples : list of dict
        ``seconds``, and own memory in MB of ``gateway`` and ``trusted``.
    """

    statuses: dict[str, Counter[int]] = field(default_factory=dict)
    rounds: Counter[str] = field(default_factory=Counter)
    turned_away: int = 0
    reports: int = 0
    in_sums: int = 0
    latencies: list[float] = field(default_factory=list)
    samples: list[dict[str, float]] = field(default_factory=list)

    def count(self, kind: str, outcome: Outcome) -> None:
        """Take in the answers to one load."""
        self.statuses.setdefault(kind, Counter()).update(outcome.statuses)
        self.latencies += [float(latency) for latency in outcome.latencies]

    @property
    def errors(self) -> int:
        """Requests that failed, places that were refused, and reports that no sum has."""
        failed = sum(
            count
            for statuses in self.statuses.values()
            for status, count in statuses.items()
            if not 200 <= status < 300
        )
        lost = abs(self.reports - self.in_sums)
        return failed + self.turned_away + lost + self.rounds["aborted"]


def soak(settings: SoakSettings) -> dict[str, Any]:
    """Run the load and return the figures."""
    rounds = int(settings.minutes * 60 / settings.round_seconds) + 2
    plan = fleet.fleet_plan(settings.parameters, population=settings.devices, rounds=rounds)
    with (
        tempfile.TemporaryDirectory(prefix="pocketfl-soak-") as name,
        LocalDeployment(Path(name), plan_keys=[plan.signed_by]) as running,
    ):
        running.operator.create_task(TASK, plan.data, optimizer=_AVERAGING)
        found = asyncio.run(_Driver(running, settings, plan).run())
    return figures_of(found, settings)


def figures_of(found: Soak, settings: SoakSettings) -> dict[str, Any]:
    """Return a soak's figures as JSON values; slopes are of a straight line through the samples."""
    seconds = np.array([sample["seconds"] for sample in found.samples])
    settled = seconds >= WARM_UP_PART * seconds[-1]
    memory: dict[str, Any] = {}
    for name in ("gateway", "trusted"):
        values = np.array([sample[name] for sample in found.samples])
        slope, _ = np.polyfit(seconds[settled], values[settled], 1)
        memory[name] = {
            "first_mb": float(values[settled][0]),
            "last_mb": float(values[-1]),
            "slope_mb_per_hour": float(slope * 3600),
        }
    return {
        "minutes": float(seconds[-1] / 60),
        "devices_per_second": settings.rate,
        "requests": len(found.latencies),
        "reports": found.reports,
        "reports_in_sums": found.in_sums,
        "rounds": dict(found.rounds),
        "errors": found.errors,
        "statuses": {kind: dict(counts) for kind, counts in found.statuses.items()},
        "p50_ms": float(1e3 * np.percentile(found.latencies, 50)),
        "p99_ms": float(1e3 * np.percentile(found.latencies, 99)),
        "memory": memory,
        "samples": [
            {name: round(value, 2) for name, value in sample.items()} for sample in found.samples
        ],
    }


class _Driver:
    def __init__(self, running: LocalDeployment, settings: SoakSettings, plan: Plan) -> None:
        self._running = running
        self._settings = settings
        self._plan = plan
        self._found = Soak()
        self._began = time.monotonic()

    async def run(self) -> Soak:
        """Do rounds until the time is over."""
        key = self._running.enrolment_key
        enrolled = await self._send("enrol", fleet.enrolments(key, range(self._settings.devices)))
        tokens = fleet.tokens(enrolled.bodies)
        self._began = time.monotonic()
        watching = asyncio.create_task(self._watch())
        try:
            while time.monotonic() - self._began < 60 * self._settings.minutes:
                await self._round(tokens)
        finally:
            watching.cancel()
        return self._found

    async def _round(self, tokens: list[str]) -> None:
        operator, settings = self._running.operator, self._settings
        notice = await asyncio.to_thread(operator.open_round, TASK, seconds=settings.round_seconds)
        began = time.monotonic()
        # A device's own training lies between its downloads and its report; half the round each.
        half = 2 * settings.rate
        checked = await self._send("check_in", fleet.check_ins(notice, tokens), rate=half)
        await self._download(notice)
        assigned = fleet.assignments(checked.bodies)
        self._found.turned_away += len(tokens) - len(assigned)
        reports = await asyncio.to_thread(fleet.uploads, self._plan, assigned)
        left = settings.round_seconds - MARGIN_SECONDS / 2 - (time.monotonic() - began)
        rate = max(half, len(reports) / max(left, 1.0))
        sent = await self._send("report", reports, rate=rate)
        self._found.reports += sum(sent.statuses[status] for status in (200, 201))
        while True:  # its own clock ends the round
            result = await asyncio.to_thread(operator.round, TASK, notice.round)
            if result.state in ("finished", "aborted"):
                break
            await asyncio.sleep(0.2)
        self._found.rounds[result.state] += 1
        funnel = await asyncio.to_thread(operator.funnel, TASK, notice.round)
        self._found.in_sums += funnel.accepted or 0

    async def _download(self, notice: RoundNotice) -> None:
        """Fetch what devices fetch that have nothing in their caches yet: a tenth of them."""
        count = max(1, self._settings.devices // 10)
        for kind, path in (
            ("notices", "/v1/notices"),
            ("plan", f"/v1/plans/{notice.plan_sha256}"),
            ("parameters", f"/v1/parameters/{notice.parameters_sha256}"),
        ):
            await self._send(kind, fleet.downloads(path, count), rate=10 * self._settings.rate)

    async def _send(
        self, kind: str, requests: list[Prepared], *, rate: float | None = None
    ) -> Outcome:
        outcome = await send_all(
            self._running.url, requests, connections=_CONNECTIONS, per_second=rate
        )
        self._found.count(kind, outcome)
        return outcome

    async def _watch(self) -> None:
        pids = {name: process.pid for name, process in self._running.processes.items()}
        while True:
            self._found.samples.append(
                {
                    "seconds": time.monotonic() - self._began,
                    **{name: processes.own_memory_mb(pid) for name, pid in pids.items()},
                }
            )
            await asyncio.sleep(self._settings.sample_seconds)
