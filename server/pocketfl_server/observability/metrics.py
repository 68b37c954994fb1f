"""Prometheus metrics: requests by route, and where tasks stand; no label ever names a device.

What is counted by request is one process's, or all gateways' together where the supervisor gives them a
folder to share (prometheus-client's multiprocess mode). What is read from the database is the same in
every gateway.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector
from sqlalchemy import func, select

from pocketfl_server.back_end import BackEnd
from pocketfl_server.database import devices, models, rounds

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
SHARED_FOLDER: Final = "PROMETHEUS_MULTIPROC_DIR"
"""Variable of prometheus-client: where the gateways of one machine add up."""

_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0)

_ROUNDS: Final = select(rounds.c.task, rounds.c.state, func.count()).group_by(
    rounds.c.task, rounds.c.state
)
_MODELS: Final = select(
    models.c.task, func.max(models.c.version), func.max(models.c.epsilon)
).group_by(models.c.task)
_DEVICES: Final = select(func.count()).select_from(devices)


class Metrics:
    """The metrics of one gateway.

    Parameters
    ----------
    back_end : BackEnd
        Whose tasks are looked at when somebody asks.
    """

    def __init__(self, back_end: BackEnd) -> None:
        own = CollectorRegistry()
        self._requests = Counter(
            "pocketfl_http_requests",
            "Requests by method, route and status.",
            ("method", "route", "status"),
            registry=own,
        )
        self._seconds = Histogram(
            "pocketfl_http_request_seconds",
            "Time from a request's first byte to its answer's last.",
            ("method", "route"),
            buckets=_SECONDS,
            registry=own,
        )
        self._counters: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}
        self._registry = own
        if os.environ.get(SHARED_FOLDER):
            self._registry = CollectorRegistry()
            MultiProcessCollector(self._registry)  # type: ignore[no-untyped-call]
        self._registry.register(_TasksCollector(back_end))

    def observe(self, *, method: str, route: str, status: int, seconds: float) -> None:
        """Count one answered request.

        Parameters
        ----------
        route : str
            The template of the path, with its parameters in braces: never the path itself.
        """
        # Routes and statuses are few; to look their counters up by label takes longer than to count.
        key = (method, route, status)
        counters = self._counters.get(key)
        if counters is None:
            counters = (
                self._requests.labels(method, route, str(status)),
                self._seconds.labels(method, route),
            )
            self._counters[key] = counters
        requests, duration = counters
        requests.inc()
        duration.observe(seconds)

    def text(self) -> bytes:
        """Return everything in Prometheus's text format."""
        return generate_latest(self._registry)


class _TasksCollector(Collector):
    """Reads from the database, when asked, where tasks stand."""

    def __init__(self, back_end: BackEnd) -> None:
        self._back_end = back_end

    def describe(self) -> Iterator[Metric]:
        """Name nothing ahead of time: that would read the database at the start."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics of all tasks."""
        with self._back_end.database.reading() as connection:
            by_state = connection.execute(_ROUNDS).all()
            by_task = connection.execute(_MODELS).all()
            enrolled = int(connection.execute(_DEVICES).scalar_one())
        counted = CounterMetricFamily(
            "pocketfl_rounds", "Rounds by task and state.", labels=("task", "state")
        )
        version = GaugeMetricFamily(
            "pocketfl_model_version", "Newest model version.", labels=("task",)
        )
        epsilon = GaugeMetricFamily(
            "pocketfl_epsilon_spent", "Epsilon of all releases of a model.", labels=("task",)
        )
        leases = GaugeMetricFamily(
            "pocketfl_round_leases", "Leases of the round under way.", labels=("task",)
        )
        uploaded = GaugeMetricFamily(
            "pocketfl_round_reports", "Reports of the round under way.", labels=("task",)
        )
        for task, state, count in by_state:
            counted.add_metric((task, state), count)
            if state == "open":
                funnel = self._back_end.funnel(task, self._back_end.rounds(task)[-1].round)
                leases.add_metric((task,), funnel.leases)
                uploaded.add_metric((task,), funnel.uploaded)
        for task, newest, spent in by_task:
            version.add_metric((task,), newest)
            if spent is not None:
                epsilon.add_metric((task,), spent)
        yield from (counted, version, epsilon, leases, uploaded)
        yield GaugeMetricFamily("pocketfl_devices_enrolled", "Enrolled devices.", value=enrolled)
