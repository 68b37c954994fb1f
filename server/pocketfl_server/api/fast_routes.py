"""A short cut past FastAPI's routing for the few routes that come by the thousand.

They are documented and routed by FastAPI as well, with the same endpoints: leaving this out changes
speed and nothing else.
"""

from __future__ import annotations

import re
from typing import Any, Final

from fastapi import FastAPI
from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from pocketfl_server.api.routes import Endpoint, guarded
from pocketfl_server.observability.middleware import ROUTE

_PARAMETER: Final = re.compile(r"\\\{(\w+)\\\}")


class FastRoutes:
    """Exact routes by method: a pattern for the whole path, and an endpoint."""

    def __init__(self) -> None:
        self._routes: dict[str, list[tuple[re.Pattern[str], Endpoint, str]]] = {}

    def add(self, method: str, path: str, endpoint: Endpoint) -> None:
        """Add a route whose path has its parameters in braces."""
        pattern = re.compile(_PARAMETER.sub(r"(?P<\1>[^/]+)", re.escape(path)) + r"\Z")
        self._routes.setdefault(method, []).append((pattern, guarded(endpoint), path))

    def find(self, method: str, path: str) -> tuple[Endpoint, dict[str, str], str] | None:
        """Return the endpoint, its path parameters and the path with braces, if there is one."""
        for pattern, endpoint, template in self._routes.get(method, ()):
            match = pattern.match(path)
            if match is not None:
                return endpoint, match.groupdict(), template
        return None


class FastRoutesApp(FastAPI):
    """Answers what its :class:`FastRoutes` know before any middleware, and the rest as FastAPI does.

    Attributes
    ----------
    fast_routes : FastRoutes
        What is answered first.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.fast_routes = FastRoutes()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        found = None
        if scope["type"] == "http":
            found = self.fast_routes.find(scope["method"], scope["path"])
        if found is None:
            await super().__call__(scope, receive, send)
            return
        endpoint, scope["path_params"], scope[ROUTE] = found
        response = await endpoint(Request(scope, receive, send))
        await response(scope, receive, send)
