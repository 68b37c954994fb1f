"""What every operator's route has in common: who asks, whether they may, and a line in the log."""

from __future__ import annotations

from typing import Any, Final

from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response

from pocketfl_server.access import OPERATORS, READERS, Access
from pocketfl_server.api.requests import bearer
from pocketfl_server.api.routes import Endpoint, PlainRoute, answer_for, described, in_thread
from pocketfl_server.back_end import BackEnd
from pocketfl_server.errors import NotAllowed
from pocketfl_server.records import Role

PREFIX: Final = "/v1/operator"
OPERATOR_KEY: Final = "operator key"
_ROLES: Final = "x-roles"
_READING: Final = frozenset({"GET", "HEAD"})


def of_operator(
    path: str, *, roles: frozenset[Role] | None = None, refusals: tuple[int, ...], **details: Any
) -> dict[str, Any]:
    """Return what FastAPI's decorators need to document an operator's route.

    Parameters
    ----------
    path : str
        Below the prefix.
    roles : frozenset of str, optional
        Who may; by default everybody with a token may read, and operators may do the rest.
    refusals : tuple of int
        Status codes of its problems, besides 403.
    **details
        See :func:`.routes.described`.
    """
    found = described(path, secret=OPERATOR_KEY, refusals=(*refusals, 403), **details)
    if roles is not None:
        found["openapi_extra"][_ROLES] = sorted(roles)
    return found


def guarded_route(back_end: BackEnd, access: Access) -> type[PlainRoute]:
    """Return a route class that asks who is there before anything of the body is read.

    What changes something is on record in the log before it begins, and a refusal for want of a role
    is, too.
    """

    class OperatorRoute(PlainRoute):
        def guard(self, endpoint: Endpoint) -> Endpoint:
            return _authorised(self, endpoint, back_end, access)

    return OperatorRoute


def _authorised(route: APIRoute, endpoint: Endpoint, back_end: BackEnd, access: Access) -> Endpoint:
    changes = not (route.methods or set()) <= _READING
    stated = (route.openapi_extra or {}).get(_ROLES)
    roles = frozenset(stated) if stated else OPERATORS if changes else READERS
    action = f"{'/'.join(sorted(route.methods or ()))} {route.path.removeprefix(PREFIX)}"

    async def handle(request: Request) -> Response:
        who = await in_thread(access.identify, bearer(request))
        allowed = who.role in roles
        if not changes and allowed:
            return await endpoint(request)
        details = {name: str(value)[:128] for name, value in request.path_params.items()}
        task = details.pop("task", None)
        sequence = await in_thread(
            back_end.audit.begin, who, action, task=task, details=details, now=back_end.now()
        )
        try:
            if not allowed:
                raise NotAllowed(
                    f"the role {who.role!r} may not do this; it takes {' or '.join(sorted(roles))}"
                )
            response = await endpoint(request)
        except Exception as error:
            response = answer_for(error)
        await in_thread(back_end.audit.end, sequence, status=response.status_code)
        return response

    return handle
