"""OpenTelemetry traces of requests, where an endpoint is configured; the extra ``telemetry``.

Spans carry the method, the route's template and the status. Automatic instrumentation is not used: it
would send addresses and whole paths, which hold leases.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from pocketfl.errors import PocketFLError

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider


class TelemetryMissingError(PocketFLError):
    """Traces are configured and their packages are not installed."""


class Traces:
    """Sends one span for each request.

    Parameters
    ----------
    endpoint : str
        OTLP over HTTP, such as ``http://127.0.0.1:4318/v1/traces``.

    Raises
    ------
    TelemetryMissingError
        If the extra is not installed.
    """

    def __init__(self, endpoint: str) -> None:
        try:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
        except ImportError as error:
            raise TelemetryMissingError(
                f"telemetry_endpoint is set ({error}): pip install 'pocketfl[server,telemetry]'"
            ) from None
        resource = Resource({"service.name": "pocketfl"})
        self._provider: TracerProvider = TracerProvider(resource=resource)
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=endpoint)))
        self._tracer = self._provider.get_tracer("pocketfl")

    def begin(self) -> Callable[[str, str, int], None]:
        """Begin a span; returns what ends it, given method, route and status."""
        span = self._tracer.start_span("request")

        def end(method: str, route: str, status: int) -> None:
            span.update_name(f"{method} {route}")
            span.set_attribute("http.request.method", method)
            span.set_attribute("http.route", route)
            span.set_attribute("http.response.status_code", status)
            span.end()

        return end

    def close(self) -> None:
        """Send what is left."""
        self._provider.shutdown()
