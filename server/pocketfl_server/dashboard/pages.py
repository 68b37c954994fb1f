"""The dashboard's routes: a login, the page, and the part of it that a browser fetches again."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qs

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from pocketfl_server.access import Access
from pocketfl_server.api.requests import read_body
from pocketfl_server.api.routes import PlainRoute, in_thread
from pocketfl_server.back_end import BackEnd
from pocketfl_server.dashboard.sessions import COOKIE, SESSION_SECONDS, Sessions
from pocketfl_server.what_next import schedule_line, what_next

if TYPE_CHECKING:
    import jinja2

PATH: Final = "/dashboard"
POLL_SECONDS: Final = 5
_FORM_LIMIT: Final = 4096
_FORM: Final = "application/x-www-form-urlencoded"
_STATIC: Final = {"dashboard.css": "text/css", "dashboard.js": "text/javascript"}
_HEADERS: Final = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}


def dashboard_router(
    back_end: BackEnd, access: Access, *, operator_key: str, clock: Callable[[], float] = time.time
) -> APIRouter:
    """Return the dashboard's routes.

    Parameters
    ----------
    back_end : BackEnd
        What is shown.
    access : Access
        Knows the tokens of which a person has to show one, once per session.
    operator_key : str
        Signs sessions.
    clock : callable
        Unix time in seconds.
    """
    from pocketfl_server.dashboard.overview import OverviewReader

    router = APIRouter(route_class=PlainRoute, prefix=PATH, include_in_schema=False)
    sessions = Sessions(access, operator_key=operator_key)
    reader = OverviewReader(back_end, clock=clock)

    async def may_look(request: Request) -> bool:
        valid: bool = await in_thread(sessions.is_valid, request.cookies.get(COOKIE), now=clock())
        return valid

    @router.get("")
    async def page(request: Request) -> Response:
        """Show the page, or the login to whoever has no session."""
        if not await may_look(request):
            return _html("login.html.j2", status=401, wrong=False)
        overview = await in_thread(reader.read)
        return _html("page.html.j2", overview=overview)

    @router.get("/live")
    async def live(request: Request) -> Response:
        """Return what changes; a browser without a session is told so."""
        if not await may_look(request):
            return Response(status_code=401, headers=_HEADERS)
        overview = await in_thread(reader.read)
        return _html("live.html.j2", overview=overview)

    @router.post("/login")
    async def login(request: Request) -> Response:
        """Exchange the token for a cookie."""
        body = await read_body(request, limit=_FORM_LIMIT, media_type=_FORM)
        given = parse_qs(body.decode("utf-8", "replace")).get("token", [""])[0]
        cookie = await in_thread(sessions.begin, given.strip(), now=clock())
        if cookie is None:
            return _html("login.html.j2", status=401, wrong=True)
        answer = RedirectResponse(PATH, status_code=303, headers=_HEADERS)
        answer.set_cookie(
            COOKIE,
            cookie,
            max_age=SESSION_SECONDS,
            path=PATH,
            httponly=True,
            samesite="strict",
            secure=request.url.scheme == "https",
        )
        return answer

    @router.post("/logout")
    async def logout(request: Request) -> Response:
        """Forget the session."""
        del request
        answer = RedirectResponse(PATH, status_code=303, headers=_HEADERS)
        answer.delete_cookie(COOKIE, path=PATH)
        return answer

    @router.get("/static/{name}")
    async def static(request: Request) -> Response:
        """Return the style sheet or the script; neither holds anything of the operator's."""
        name = request.path_params["name"]
        if name not in _STATIC:
            return Response(status_code=404, headers=_HEADERS)
        headers = {**_HEADERS, "Cache-Control": "no-cache"}
        return Response(_static(name), headers=headers, media_type=_STATIC[name])

    return router


@cache
def _static(name: str) -> bytes:
    return (Path(__file__).parent / "static" / name).read_bytes()


@cache
def _templates() -> jinja2.Environment:
    # Loaded for the first person who looks: a gateway without one need not keep it in memory.
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("pocketfl_server.dashboard"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["moment"] = _moment
    environment.filters["schedule_line"] = schedule_line
    environment.filters["what_next"] = what_next
    environment.filters["whole"] = "{:,}".format
    return environment


def _html(template: str, *, status: int = 200, **values: Any) -> Response:
    text = (
        _templates().get_template(template).render(path=PATH, poll_seconds=POLL_SECONDS, **values)
    )
    return Response(text, status, _HEADERS, media_type="text/html")


def _moment(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, tz=UTC):%Y-%m-%d %H:%M:%S}"
