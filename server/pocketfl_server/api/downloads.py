"""Immutable downloads: validated by ETag, resumed by range (RFC 9110, sections 13 and 14)."""

from __future__ import annotations

import re
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from pocketfl.decoding import encode_json
from pocketfl.protocol import Problem

_RANGE: Final = re.compile(r"bytes=(\d{0,15})-(\d{0,15})\Z")
_IMMUTABLE: Final = "public, max-age=31536000, immutable"


def matches(request: Request, etag: str) -> bool:
    """Say whether the requester has this version already, by ``If-None-Match``."""
    given = request.headers.get("if-none-match")
    if given is None:
        return False
    return any(tag.strip().removeprefix("W/") in (etag, "*") for tag in given.split(","))


def not_modified(etag: str, *, cache_control: str) -> Response:
    """Return "not modified"."""
    return Response(status_code=304, headers={"ETag": etag, "Cache-Control": cache_control})


def unchanged_content(digest: str) -> Response:
    """Return "not modified" for content that is named by its hash."""
    return not_modified(f'"{digest}"', cache_control=_IMMUTABLE)


def content(request: Request, data: bytes, digest: str) -> Response:
    """Return content that is named by its hash, or the one range of it that was asked for.

    Several ranges, or one that is not understood, give the whole content, as the standard allows.
    """
    etag = f'"{digest}"'
    headers = {"ETag": etag, "Cache-Control": _IMMUTABLE, "Accept-Ranges": "bytes"}
    condition = request.headers.get("if-range")
    asked = _RANGE.match(request.headers.get("range", ""))
    if asked is None or asked.groups() == ("", "") or condition not in (None, etag):
        return Response(data, 200, headers, media_type="application/octet-stream")
    first, last = asked.groups()
    if first:
        start = int(first)
        stop = min(int(last) + 1, len(data)) if last else len(data)
        if last and int(last) < start:
            return Response(data, 200, headers, media_type="application/octet-stream")
    else:
        start, stop = max(0, len(data) - int(last)), len(data)
    if start >= stop:
        problem = Problem(
            code="range_not_satisfiable",
            message=f"the range starts beyond the {len(data)} bytes there are",
        )
        headers["Content-Range"] = f"bytes */{len(data)}"
        return Response(encode_json(problem), 416, headers, media_type="application/json")
    headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(data)}"
    return Response(data[start:stop], 206, headers, media_type="application/octet-stream")
