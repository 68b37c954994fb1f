"""A short cut past FastAPI's routing for the few routes that come by the thousand.

They are documented and routed by FastAPI as well, with the same endpoints: leaving this middleware out
changes speed and nothing else.
"""

from __future__ import annotations

import re
from typing import Final

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from pocketfl_server.api.routes import Endpoint, guarded

_PARAMETER: Final = re.compile(r"\\\{(\w+)\\\}")


class FastRoutes:
    """Exact routes by method: a pattern for the whole path, and an endpoint."""

    def __init__(self) -> None:
        self._routes: dict[str, list[tuple[re.Pattern[str], Endpoint]]] = {}

    def add(self, method: str, path: str, endpoint: Endpoint) -> None:
        """Add a route whose path has its parameters in braces."""
        pattern = re.compile(_PARAMETER.sub(r"(?P<\1>[^/]+)", re.escape(path)) + r"\Z")
        self._routes.setdefault(method, []).append((pattern, guarded(endpoint)))

    def find(self, method: str, path: str) -> tuple[Endpoint, dict[str, str]] | None:
        """Return the endpoint and its path parameters, if there is one."""
        for pattern, endpoint in self._routes.get(method, ()):
            match = pattern.match(path)
            if match is not None:
                return endpoint, match.groupdict()
        return None


class FastRoutesMiddleware:
    """Answers what :class:`FastRoutes` knows and passes everything else on.

    Parameters
    ----------
    app : ASGI application
        The rest.
    routes : FastRoutes
        What is answered here.
    """

    def __init__(self, app: ASGIApp, routes: FastRoutes) -> None:
        self._app = app
        self._routes = routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        found = None
        if scope["type"] == "http":
            found = self._routes.find(scope["method"], scope["path"])
        if found is None:
            await self._app(scope, receive, send)
            return
        endpoint, scope["path_params"] = found
        response = await endpoint(Request(scope, receive, send))
        await response(scope, receive, send)
