"""Measures one deployment on this machine: rates, latencies, memory, and the end of a round."""

from __future__ import annotations

import secrets
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pocketfl.protocol import Assignment, RoundNotice
from pocketfl_benchmarks.scale import fleet, processes
from pocketfl_benchmarks.scale.load import Outcome, Prepared, send
from pocketfl_server.database import Database, devices
from pocketfl_server.enrolment import token_digest
from pocketfl_server.local import LocalDeployment
from pocketfl_server.optimizers import OptimizerSpec

TASK: Final = "scale"
ROUND_SECONDS: Final = 3600.0
STEADY_PART: Final = 0.5
"""Latencies are those at this part of the rate that the gateway can take."""
_AVERAGING: Final = OptimizerSpec(kind="sgd", learning_rate=1.0, momentum=0.0)
_INSERT_AT_ONCE: Final = 20_000


@dataclass(frozen=True, kw_only=True)
class ScaleSettings:
    """How much is measured.

    Attributes
    ----------
    devices : int
        That check in and report in each of two rounds.
    parameters : int
        Of the model.
    downloads : int
        Of the plan and of the parameters, each.
    registered : int
        Devices that are enrolled in the database besides.
    gateways : int
        Processes of the back end.
    database_url : str or None
        PostgreSQL; None for a SQLite file.
    """

    devices: int = 1000
    parameters: int = 2177
    downloads: int = 2000
    registered: int = 200_000
    gateways: int = 1
    database_url: str | None = None


def measure(settings: ScaleSettings) -> dict[str, Any]:
    """Start a deployment, put it under load, and return the figures."""
    plan = fleet.fleet_plan(settings.parameters, population=settings.devices, rounds=8)
    keys = [plan.signed_by]
    with tempfile.TemporaryDirectory(prefix="pocketfl-scale-") as name:
        idle = LocalDeployment(Path(name, "idle"), plan_keys=keys)
        idle_mb = processes.idle_memory_mb(idle.prepare())
        with LocalDeployment(
            Path(name, "loaded"),
            plan_keys=keys,
            database_url=settings.database_url,
            gateways=settings.gateways,
        ) as running:
            running.operator.create_task(TASK, plan.data, optimizer=_AVERAGING)
            return {**_Measurement(running, settings, plan).figures(), "idle_rss_mb": idle_mb}


class _Measurement:
    def __init__(self, running: LocalDeployment, settings: ScaleSettings, plan: Any) -> None:
        self._running = running
        self._settings = settings
        self._plan = plan
        self._gateways = processes.gateways(running)

    def figures(self) -> dict[str, Any]:
        """Return everything, in the order of a round."""
        settings, running = self._settings, self._running
        enrol, enrolled = self._load(
            fleet.enrolments(running.enrolment_key, range(settings.devices))
        )
        tokens = fleet.tokens(enrolled.bodies)
        notice = running.operator.open_round(TASK, seconds=ROUND_SECONDS)
        # A first check-in fetches the attestation, which later ones share.
        self._assign(notice, tokens[:1])
        check_in, answered = self._load(fleet.check_ins(notice, tokens[1:]))
        assigned = fleet.assignments(answered.bodies)
        reports = fleet.uploads(self._plan, assigned)
        upload, _ = self._load(reports)
        plan, _ = self._load(fleet.downloads(f"/v1/plans/{notice.plan_sha256}", settings.downloads))
        parameters, _ = self._load(
            fleet.downloads(f"/v1/parameters/{notice.parameters_sha256}", settings.downloads)
        )
        notices, _ = self._load(fleet.downloads("/v1/notices", settings.downloads))
        first_end, _, _ = self._end(notice)
        second = running.operator.open_round(TASK, seconds=ROUND_SECONDS)
        steady = self._steady(second, tokens, check_in["per_second"], upload["per_second"])
        second_end, summing, ending = self._end(second)
        return {
            "checkins_per_second": check_in["per_second"],
            "reports_per_second": upload["per_second"],
            "p99_ms": max(steady["check_in"]["p99_ms"], steady["report"]["p99_ms"]),
            "round_server_seconds": min(first_end, second_end),
            "round_server_seconds_of_rounds": [first_end, second_end],
            "round_server_processor_seconds": summing + ending,
            "trusted_reports_per_core_second": settings.devices / summing,
            "devices": settings.devices,
            "parameters": settings.parameters,
            "gateways": settings.gateways,
            "database": "SQLite" if settings.database_url is None else "PostgreSQL",
            "report_bytes": len(reports[0].body),
            "plan_bytes": len(self._plan.data),
            "enrolment": enrol,
            "check_in": check_in,
            "report": upload,
            "plan_download": plan,
            "parameters_download": parameters,
            "notices": notices,
            "steady": steady,
            **self._registered(),
        }

    def _load(self, requests: list[Prepared], *, rate: float | None = None) -> tuple[Any, Outcome]:
        before = processes.processor_seconds(self._gateways)
        outcome = send(self._running.url, requests, per_second=rate)
        spent = processes.processor_seconds(self._gateways) - before
        if outcome.errors:
            raise RuntimeError(
                f"{requests[0].method} {requests[0].path}: answers were {outcome.statuses}"
            )
        figures = {
            "requests": len(requests),
            "per_second": outcome.per_second,
            # What a core of the gateway's own would take, whatever else this machine does.
            "per_core_second": len(requests) / max(spent, 0.01),
            "p50_ms": outcome.milliseconds(50),
            "p99_ms": outcome.milliseconds(99),
        }
        return figures, outcome

    def _assign(self, notice: RoundNotice, tokens: list[str]) -> list[Assignment]:
        return fleet.assignments(self._load(fleet.check_ins(notice, tokens))[1].bodies)

    def _steady(
        self, notice: RoundNotice, tokens: list[str], check_ins: float, reports: float
    ) -> dict[str, Any]:
        """Do a round at half the rates that were possible, for latencies without a queue."""
        self._assign(notice, tokens[:1])
        checked, answered = self._load(
            fleet.check_ins(notice, tokens[1:]), rate=STEADY_PART * check_ins
        )
        prepared = fleet.uploads(self._plan, fleet.assignments(answered.bodies))
        reported, _ = self._load(prepared, rate=STEADY_PART * reports)
        return {"part_of_capacity": STEADY_PART, "check_in": checked, "report": reported}

    def _end(self, notice: RoundNotice) -> tuple[float, float, float]:
        """Return the seconds from closing a round to having the new version downloaded.

        And the processor time for it: of the trusted tier, to store, open, check and sum its reports,
        for the noise and the accountant; and of the gateways.
        """
        operator = self._running.operator
        trusted = [self._running.processes["trusted"].pid]
        spent = [processes.processor_seconds(pids) for pids in (trusted, self._gateways)]
        began = time.perf_counter()
        result = operator.close_round(notice.task, notice.round)
        if result.new_version is None:
            raise RuntimeError(f"the round ended without a version: {result}")
        operator.model_parameters(notice.task, result.new_version)
        seconds = time.perf_counter() - began
        summing = processes.processor_seconds(trusted) - spent[0]
        ending = processes.processor_seconds(self._gateways) - spent[1]
        return seconds, max(summing, 0.01), ending

    def _registered(self) -> dict[str, Any]:
        """Enrol many devices at once, in the database, and see what they cost."""
        count = self._settings.registered
        if count == 0:
            return {}
        memory = processes.memory_mb(self._gateways)
        database = Database(self._running.database_url)
        try:
            used = _database_bytes(database)
            for start in range(0, count, _INSERT_AT_ONCE):
                rows = [
                    {
                        "token_sha256": token_digest(secrets.token_urlsafe(32)),
                        "user": f"crowd-{number}",
                        "sdk": fleet.SDK,
                        "enrolled_day": 20_000,
                    }
                    for number in range(start, min(start + _INSERT_AT_ONCE, count))
                ]
                with database.writing() as connection:
                    connection.execute(devices.insert(), rows)
            used = _database_bytes(database) - used
        finally:
            database.close()
        # Devices of the crowd ask as well, so that what a gateway would keep of them is there.
        self._load(fleet.enrolments(self._running.enrolment_key, range(self._settings.devices)))
        grown = processes.memory_mb(self._gateways) - memory
        return {
            "registered_devices": count,
            "gateway_mb_per_million_devices": grown * 1e6 / count,
            "database_mb_per_million_devices": used / count,
        }


def _database_bytes(database: Database) -> int:
    # Free pages of the file take new rows without making it longer.
    statement = (
        "SELECT (page_count - freelist_count) * page_size "
        "FROM pragma_page_count, pragma_freelist_count, pragma_page_size"
        if database.in_process
        else "SELECT pg_total_relation_size('devices')"
    )
    with database.reading() as connection:
        return int(connection.exec_driver_sql(statement).scalar_one())
