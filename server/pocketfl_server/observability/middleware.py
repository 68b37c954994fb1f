"""Around the whole application: counts and traces each request by its route's template."""

from __future__ import annotations

import time
from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pocketfl_server.observability.metrics import Metrics
from pocketfl_server.observability.traces import Traces

ROUTE: Final = "pocketfl.route"
"""Key in a request's scope for its route's template, where FastAPI did not route it."""
UNROUTED: Final = "unrouted"
_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE"})


class Observed:
    """An application whose requests are counted, and traced where that is configured.

    Parameters
    ----------
    app : ASGI application
        Answers.
    metrics : Metrics
        Counts.
    traces : Traces, optional
        Gets a span for each request.
    """

    def __init__(self, app: ASGIApp, *, metrics: Metrics, traces: Traces | None = None) -> None:
        self._app = app
        self._metrics = metrics
        self._traces = traces

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status = 500
        end = None if self._traces is None else self._traces.begin()
        began = time.perf_counter()

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, noting)
        finally:
            # A stranger may send any method and path: neither becomes a label.
            method = scope["method"] if scope["method"] in _METHODS else "other"
            route = _template(scope)
            seconds = time.perf_counter() - began
            self._metrics.observe(method=method, route=route, status=status, seconds=seconds)
            if end is not None:
                end(method, route, status)


def _template(scope: Scope) -> str:
    known = scope.get(ROUTE)
    if known is None:
        known = getattr(scope.get("route"), "path", UNROUTED)
    return str(known)
