"""Routes without FastAPI's parsing of parameters, and with a problem for every refusal.

Requests come by the thousand and from strangers, so each route reads its own body within its own bounds
(:mod:`.requests`). FastAPI still routes and documents them: :func:`described` says what it cannot see.
"""

from __future__ import annotations

import logging
import re
import traceback
from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeAlias

from fastapi import FastAPI
from fastapi.routing import APIRoute
from pydantic import TypeAdapter
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from pocketfl.decoding import encode_json
from pocketfl.errors import DecodeError
from pocketfl.protocol import Problem
from pocketfl_server.errors import Refusal, ReleaseRefusedError
from pocketfl_server.trusted.refusals import TrustedTierError

logger: Final = logging.getLogger(__name__)

Endpoint: TypeAlias = Callable[[Request], Coroutine[Any, Any, Response]]

_PATH_PARAMETER: Final = re.compile(r"\{(\w+)\}")
_REASONS: Final = {
    401: "No key or token, or a wrong one",
    403: "The token's role does not cover this",
    404: "No such thing",
    408: "The body came too slowly",
    409: "Contradicts what is on record; the record stays",
    410: "The lease has expired or its round is closed",
    413: "The body is too large",
    415: "The body has another content type",
    416: "The range lies outside of the content",
    422: "Malformed",
    502: "The trusted tier refused or answered nonsense",
    503: "The trusted tier cannot be reached",
}
_UNROUTED: Final = {
    404: (
        "no_such_path",
        "this back end has no such path; /v1/openapi.json lists those that it has",
    ),
    405: ("method_not_allowed", "this path does not take this method; see /v1/openapi.json"),
}
# Refusals of the trusted tier that are the operator's to act on keep their status; with any other, two
# of our own processes disagree.
_PASSED_ON: Final = frozenset({403, 409, 422, 503})


class PlainRoute(APIRoute):
    """Calls its endpoint with the request, and turns what it raises into a problem."""

    def get_route_handler(self) -> Endpoint:
        """Return the endpoint itself, guarded."""
        return guarded(self.guard(self.endpoint))

    def guard(self, endpoint: Endpoint) -> Endpoint:
        """Return an endpoint that lets some requests through to the given one; here all."""
        return endpoint


def guarded(endpoint: Endpoint) -> Endpoint:
    """Return an endpoint that answers refusals with a problem."""

    async def handle(request: Request) -> Response:
        try:
            return await endpoint(request)
        except Exception as error:
            return answer_for(error)

    return handle


def answer_for(error: Exception) -> Response:
    """Return the problem that stands for an exception; log one that nobody foresaw.

    What is logged is the type and the place, never the message, which might quote a value.
    """
    if isinstance(error, Refusal):
        headers = {"WWW-Authenticate": "Bearer"} if error.status == 401 else None
        return _problem(error.problem(), error.status, headers)
    if isinstance(error, DecodeError):
        return _problem(Problem(code="malformed", message=str(error)), 422)
    if isinstance(error, TrustedTierError):
        status = error.status if error.status in _PASSED_ON else 502
        problem = Problem(
            code=error.code, message=f"trusted tier: {error}", details=dict(error.details)
        )
        return _problem(problem, status)
    if isinstance(error, ReleaseRefusedError):
        return _problem(Problem(code="release_refused", message=str(error)), 502)
    frames = traceback.extract_tb(error.__traceback__)
    places = ", ".join(f"{frame.name}:{frame.lineno}" for frame in frames)
    logger.error("a request failed: %s at %s", type(error).__name__, places)
    problem = Problem(
        code="internal_error", message="the back end failed; its operator finds more in the log"
    )
    return _problem(problem, 500)


def handle_unrouted(app: FastAPI) -> None:
    """Answer requests that no route takes with a problem, too."""

    @app.exception_handler(HTTPException)
    async def unrouted(request: Request, error: HTTPException) -> Response:
        del request
        code, message = _UNROUTED.get(error.status_code, ("refused", str(error.detail)))
        problem = Problem(code=code, message=message)
        return _problem(problem, error.status_code, dict(error.headers or {}))


def json_answer(
    record: object, *, status: int = 200, headers: dict[str, str] | None = None
) -> Response:
    """Return a record as a JSON response."""
    return Response(encode_json(record), status, headers, media_type="application/json")


async def in_thread(call: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
    """Run blocking work off the event loop."""
    return await run_in_threadpool(call, *arguments, **named)


def described(
    path: str,
    *,
    answers: type | str,
    refusals: tuple[int, ...],
    takes: type | str | None = None,
    status: int = 200,
    secret: str | None = None,
    query: dict[str, str] | None = None,
) -> dict[str, Any]:
    """Return what FastAPI's decorators need to document a plain route.

    Parameters
    ----------
    path : str
        With its parameters in braces.
    answers, takes : type or str
        A record, or the media type of raw bytes.
    refusals : tuple of int
        Status codes of its problems.
    status : int
        Of success.
    secret : str, optional
        Name of the security scheme.
    query : dict of str to str, optional
        Query parameters and what they mean.
    """
    success: dict[str, Any] = {"description": "Success"}
    if isinstance(answers, str):
        success["content"] = {answers: {"schema": {"type": "string", "format": "binary"}}}
    else:
        success["content"] = {"application/json": {"schema": _reference(answers)}}
    responses: dict[int | str, dict[str, Any]] = {status: success}
    for code in refusals:
        content = {"application/json": {"schema": _reference(Problem)}}
        responses[code] = {"description": _REASONS[code], "content": content}
    extra: dict[str, Any] = {
        "parameters": [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
            for name in _PATH_PARAMETER.findall(path)
        ]
        + [
            {"name": name, "in": "query", "description": meaning, "schema": {"type": "string"}}
            for name, meaning in (query or {}).items()
        ]
    }
    if isinstance(takes, str):
        content = {takes: {"schema": {"type": "string", "format": "binary"}}}
        extra["requestBody"] = {"required": True, "content": content}
    elif takes is not None:
        content = {"application/json": {"schema": _reference(takes)}}
        extra["requestBody"] = {"required": True, "content": content}
    if secret is not None:
        extra["security"] = [{secret: []}]
    return {
        "path": path,
        "response_model": None,
        "status_code": status,
        "responses": responses,
        "openapi_extra": extra,
    }


def document(app: FastAPI, records: tuple[type, ...], secrets: dict[str, str]) -> None:
    """Add the schemas of records and the security schemes to an app's OpenAPI document."""
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            schema = generate()
            _, definitions = TypeAdapter.json_schemas(
                [(kind, "validation", TypeAdapter(kind)) for kind in records],
                ref_template="#/components/schemas/{model}",
            )
            components = schema.setdefault("components", {})
            components.setdefault("schemas", {}).update(definitions.get("$defs", {}))
            components["securitySchemes"] = {
                name: {"type": "http", "scheme": "bearer", "description": meaning}
                for name, meaning in secrets.items()
            }
            app.openapi_schema = schema
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def _reference(kind: type) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{kind.__name__}"}


def _problem(problem: Problem, status: int, headers: dict[str, str] | None = None) -> Response:
    return Response(encode_json(problem), status, headers, media_type="application/json")
