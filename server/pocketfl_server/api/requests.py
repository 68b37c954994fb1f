"""Reading requests from strangers: who asks, and a body that is bounded in size and in time."""

from __future__ import annotations

import asyncio
import re
from base64 import b64decode, b64encode
from hashlib import sha256
from typing import Final, TypeVar

from starlette.requests import ClientDisconnect, Request

from pocketfl.decoding import decode_json
from pocketfl.errors import DecodeError
from pocketfl_server.errors import (
    Malformed,
    NotAuthenticated,
    RequestTimeout,
    TooLarge,
    UnsupportedMedia,
)

T = TypeVar("T")

# Longer than any token, and bounded.
_PRIVATE_TOKEN: Final = re.compile(
    r'PrivateToken\s+token="([A-Za-z0-9_=-]{0,1024})"\Z', re.IGNORECASE
)
_SHA256_DIGEST: Final = re.compile(r"(?:^|[,\s])sha-256=:([^:]*):")

BODY_SECONDS: Final = 120
"""Longest time for a whole body to arrive."""


def bearer(request: Request) -> str:
    """Return the bearer token of a request.

    Raises
    ------
    NotAuthenticated
        If there is none.
    """
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    token = token.strip()
    if scheme.lower() != "bearer" or not token:
        raise NotAuthenticated("the Authorization header with a bearer token is missing")
    return token


def private_token(request: Request) -> bytes | None:
    """Return a request's anonymous token (RFC 9577, section 2.2), or None for another scheme.

    Raises
    ------
    NotAuthenticated
        If the scheme is right and what follows it is no token.
    """
    match = _PRIVATE_TOKEN.match(request.headers.get("authorization", ""))
    if match is None:
        return None
    try:
        return b64decode(match[1], altchars=b"-_", validate=True)
    except ValueError:
        raise NotAuthenticated("the anonymous token cannot be read", code="wrong_token") from None


async def read_body(request: Request, *, limit: int, media_type: str) -> bytes:
    """Read a body, stopping as soon as it is longer or slower than allowed.

    Parameters
    ----------
    request : Request
        The request.
    limit : int
        Most bytes.
    media_type : str
        What the body has to be declared as.

    Raises
    ------
    UnsupportedMedia, TooLarge, RequestTimeout
        Before more than ``limit`` bytes are held.
    """
    declared = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if declared != media_type:
        raise UnsupportedMedia(
            f"the body must be {media_type}, not {declared[:60] or 'undeclared'}"
        )
    stated = request.headers.get("content-length", "")
    if stated.isdecimal() and (len(stated) > 15 or int(stated) > limit):
        raise _too_large(limit)
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for chunk in request.stream():
                if len(body) + len(chunk) > limit:
                    raise _too_large(limit)
                body += chunk
    except TimeoutError:
        raise RequestTimeout(f"the body did not arrive in {BODY_SECONDS} seconds") from None
    except ClientDisconnect:
        raise Malformed("the body was cut short") from None
    return bytes(body)


def check_content_digest(request: Request, body: bytes) -> None:
    """Refuse a body that is not the one of its ``Content-Digest`` (RFC 9530).

    A request without a SHA-256 digest is taken as it is: TLS protects it, or nothing does.

    Raises
    ------
    Malformed
        With code ``digest_mismatch``.
    """
    stated = _SHA256_DIGEST.search(request.headers.get("content-digest", ""))
    if stated is None:
        return
    if stated[1] != b64encode(sha256(body).digest()).decode():
        raise Malformed(
            "the body is not the one of its Content-Digest: it was changed on the way",
            code="digest_mismatch",
        )


async def read_record(request: Request, kind: type[T], *, limit: int) -> T:
    """Read a JSON body into a record, strictly.

    Raises
    ------
    Malformed
        Naming the field that is missing, unknown or of the wrong type.
    """
    body = await read_body(request, limit=limit, media_type="application/json")
    return decode_body(kind, body, limit=limit)


def decode_body(kind: type[T], body: bytes, *, limit: int) -> T:
    """Decode a JSON body into a record, strictly; raises :class:`Malformed`."""
    try:
        return decode_json(kind, body, what="body", limit=limit)
    except DecodeError as error:
        raise Malformed(str(error)) from None


def number(request: Request, name: str) -> int:
    """Return a whole number of the path; one that cannot exist becomes -1, which nothing has."""
    text: str = request.path_params[name]
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= 10 else -1


def _too_large(limit: int) -> TooLarge:
    return TooLarge(f"the body has more than the {limit} bytes allowed", details={"limit": limit})
