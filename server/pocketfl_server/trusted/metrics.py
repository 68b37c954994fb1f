"""The trusted tier's Prometheus metrics, on an address of their own.

They count what its releases state anyway, when a release is made and not as reports are opened, so that
no difference between two looks is about one report. A round that was not released counts by the code of
its refusal alone, and a shard, whose partial sum nobody but the root may read, by its number.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Histogram, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from pocketfl_server.trusted.aggregator import Aggregator

_SECONDS: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)


class Metrics:
    """Counts what an aggregator tells it, and reads where tasks stand when somebody asks.

    Implements :class:`~.observing.Observer`.
    """

    def __init__(self) -> None:
        self.registry: Final = CollectorRegistry()
        self._reports = Counter(
            "pocketfl_trusted_reports",
            "Reports that were opened for a release, by what became of them.",
            ("task", "outcome"),
            registry=self.registry,
        )
        self._refused = Counter(
            "pocketfl_trusted_refused_releases",
            "Releases that were refused, by reason.",
            ("task", "reason"),
            registry=self.registry,
        )
        self._handed_over = Counter(
            "pocketfl_trusted_partial_sums_handed_over",
            "Partial sums that this shard sealed to the root.",
            ("task",),
            registry=self.registry,
        )
        self._seconds = Histogram(
            "pocketfl_trusted_release_seconds",
            "Time to open, check, sum, add noise, charge and store.",
            ("task",),
            buckets=_SECONDS,
            registry=self.registry,
        )

    def released(
        self, task: str, *, accepted: int, rejected: Mapping[str, int], seconds: float
    ) -> None:
        """Count a release."""
        self._reports.labels(task, "accepted").inc(accepted)
        for reason, count in rejected.items():
            self._reports.labels(task, reason).inc(count)
        self._seconds.labels(task).observe(seconds)

    def refused(self, task: str, code: str) -> None:
        """Count a refusal."""
        self._refused.labels(task, code).inc()

    def handed_over(self, task: str) -> None:
        """Count a partial sum."""
        self._handed_over.labels(task).inc()

    @contextmanager
    def served(
        self,
        aggregator: Aggregator,
        *,
        host: str,
        port: int,
        certificate: tuple[str, str] | None = None,
    ) -> Iterator[int]:
        """Answer Prometheus at an address while the block runs; yields the port.

        Parameters
        ----------
        aggregator : Aggregator
            Whose tasks are looked at when somebody asks.
        host, port : str, int
            Where to listen; port 0 for any free one.
        certificate : tuple of (str, str), optional
            PEM files of the certificate and its key: HTTPS.

        Raises
        ------
        OSError
            If the address is taken.
        """
        self.registry.register(_Standing(aggregator))
        certfile, keyfile = (None, None) if certificate is None else certificate
        try:
            server, thread = start_http_server(
                port, host, self.registry, certfile=certfile, keyfile=keyfile
            )
        except OSError as error:
            where = f"cannot listen on {host}, port {port}, for metrics"
            raise OSError(f"{where}: {error.strerror or error}") from None
        try:
            yield int(server.server_port)
        finally:
            server.shutdown()
            server.server_close()
            thread.join()


class _Standing(Collector):
    """Reads from the ledger, when asked, where tasks stand."""

    def __init__(self, aggregator: Aggregator) -> None:
        self._aggregator = aggregator

    def describe(self) -> Iterator[Metric]:
        """Name nothing ahead of time: that would price every task at the start."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics of all tasks."""
        releases = CounterMetricFamily(
            "pocketfl_trusted_releases", "Releases so far.", labels=("task",)
        )
        epsilon = GaugeMetricFamily(
            "pocketfl_trusted_epsilon_spent", "Epsilon of all releases.", labels=("task",)
        )
        for task in self._aggregator.tasks():
            spent = self._aggregator.describe(task).spent
            releases.add_metric((task,), spent.releases)
            if spent.epsilon is not None:
                epsilon.add_metric((task,), spent.epsilon)
        cohort = GaugeMetricFamily(
            "pocketfl_trusted_round_reports",
            "Sealed reports of a round that is neither released nor abandoned.",
            labels=("task", "round"),
        )
        for task, number, count in self._aggregator.open_rounds():
            cohort.add_metric((task, str(number)), count)
        yield from (releases, epsilon, cohort)
        yield CounterMetricFamily(
            "pocketfl_trusted_worker_restarts",
            "Pools of worker processes that were started anew after one had died.",
            value=self._aggregator.worker_restarts,
        )
