"""Routes about the operators themselves: their tokens, and the log of what they did."""

from __future__ import annotations

from typing import Final

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from pocketfl_server.access import ADMINISTRATORS, Access
from pocketfl_server.api.authorisation import PREFIX, guarded_route, of_operator
from pocketfl_server.api.requests import read_record
from pocketfl_server.api.routes import in_thread, json_answer
from pocketfl_server.audit import MAX_ENTRIES
from pocketfl_server.back_end import BackEnd
from pocketfl_server.errors import Malformed
from pocketfl_server.observability.metrics import CONTENT_TYPE, Metrics
from pocketfl_server.records import (
    AccessTokenList,
    AuditPage,
    CreateAccessToken,
    NewAccessToken,
)

RECORD_LIMIT: Final = 4096


def administration_router(back_end: BackEnd, access: Access) -> APIRouter:
    """Return the routes.

    Parameters
    ----------
    back_end : BackEnd
        Has the log.
    access : Access
        Has the tokens.
    """
    router = APIRouter(
        route_class=guarded_route(back_end, access), prefix=PREFIX, tags=["administration"]
    )

    @router.post(
        **of_operator(
            "/tokens",
            roles=ADMINISTRATORS,
            takes=CreateAccessToken,
            answers=NewAccessToken,
            status=201,
            refusals=(401, 408, 409, 413, 415, 422),
        ),
        summary="Make a token",
    )
    async def create_token(request: Request) -> Response:
        """Give somebody a token with a role; it is shown this once."""
        wanted = await read_record(request, CreateAccessToken, limit=RECORD_LIMIT)
        token = await in_thread(access.create, wanted.name, wanted.role, now=back_end.now())
        return json_answer(token, status=201)

    @router.get(
        **of_operator("/tokens", roles=ADMINISTRATORS, answers=AccessTokenList, refusals=(401,)),
        summary="All tokens",
    )
    async def tokens(request: Request) -> Response:
        """List who has a token with which role."""
        del request
        return json_answer(AccessTokenList(tokens=await in_thread(access.all)))

    @router.delete(
        **of_operator(
            "/tokens/{name}", roles=ADMINISTRATORS, answers=AccessTokenList, refusals=(401, 404)
        ),
        summary="Revoke a token",
    )
    async def revoke_token(request: Request) -> Response:
        """Make a token worthless from the next request on; lists those that are left."""
        await in_thread(access.revoke, request.path_params["name"])
        return json_answer(AccessTokenList(tokens=await in_thread(access.all)))

    @router.get(
        **of_operator(
            "/audit",
            answers=AuditPage,
            refusals=(401, 422),
            query={"after": "Only entries above this sequence number", "limit": "At most so many"},
        ),
        summary="The log",
    )
    async def audit(request: Request) -> Response:
        """List what operators did and what was released, oldest first."""
        after, limit = _number(request, "after", 0), _number(request, "limit", MAX_ENTRIES)
        entries = await in_thread(back_end.audit.entries, after=after, limit=limit)
        return json_answer(AuditPage(entries=entries))

    return router


def metrics_router(metrics: Metrics, back_end: BackEnd, access: Access) -> APIRouter:
    """Return the route that Prometheus asks, with any operator's token."""
    router = APIRouter(route_class=guarded_route(back_end, access), tags=["administration"])

    @router.get(**of_operator("/metrics", answers="text/plain", refusals=(401,)), summary="Metrics")
    async def read_metrics(request: Request) -> Response:
        """Say what Prometheus wants to know, in its text format."""
        del request
        return Response(await in_thread(metrics.text), media_type=CONTENT_TYPE)

    return router


def _number(request: Request, name: str, default: int) -> int:
    text = request.query_params.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdecimal() and len(text) <= 15):
        raise Malformed(f"{name} must be a whole number")
    return int(text)
