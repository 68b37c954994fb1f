"""Single requests to one server over HTTP, with urllib3.

Every answer is bounded in size while it streams, in time as a whole, and read only as far as that;
redirects are never followed; nothing is decompressed. What became of a request is either its answer
or an error that says whether it may be asked again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

import urllib3
from urllib3.exceptions import (
    ConnectTimeoutError,
    HTTPError,
    NewConnectionError,
    SSLError,
)

from pocketfl import __version__
from pocketfl.decoding import decode_json
from pocketfl.errors import DecodeError, TransportError
from pocketfl.protocol import Problem
from pocketfl.transport.metering import MeteredPool, MeteredSecurePool
from pocketfl.transport.retrying import FailedAttemptError, parse_retry_after

_CHUNK: Final = 64 * 2**10
_PROBLEM_LIMIT: Final = 64 * 2**10
_LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1"})
_HEADERS: Final = {
    "User-Agent": f"pocketfl/{__version__}",
    # Compressed answers could grow without bound, and plans are compressed already.
    "Accept-Encoding": "identity",
}


@dataclass(frozen=True, kw_only=True)
class Timeouts:
    """Seconds that a request may take.

    Attributes
    ----------
    connect : float
        To reach the server.
    read : float
        Between two arrivals of bytes.
    answer : float
        From the request to the last byte of its answer.
    """

    connect: float = 10.0
    read: float = 30.0
    answer: float = 600.0


class ServerConnection:
    """Sends requests to one server over connections that are kept alive.

    Parameters
    ----------
    url : str
        Where the server is.
    timeouts : Timeouts
        How long to wait.
    connections : int
        Keep-alive connections that are kept open.
    ca_certs : str or None
        File of certificate authorities instead of the system's.
    allow_plain_http : bool
        Accept ``http`` to other machines.
    clock : callable
        Unix time in seconds.

    Raises
    ------
    ValueError
        If the URL is none that can be used, saying why.
    """

    def __init__(
        self,
        url: str,
        *,
        timeouts: Timeouts,
        connections: int,
        ca_certs: str | None,
        allow_plain_http: bool,
        clock: Callable[[], float],
    ) -> None:
        self._timeouts = timeouts
        self._clock = clock
        self._prefix, self._pool = _open_pool(
            url,
            timeouts=timeouts,
            connections=connections,
            ca_certs=ca_certs,
            allow_plain_http=allow_plain_http,
        )

    def close(self) -> None:
        """Close the connections."""
        self._pool.close()

    @contextmanager
    def request(
        self,
        method: str,
        path: str,
        *,
        headers: Mapping[str, str],
        body: bytes | None = None,
    ) -> Iterator[urllib3.BaseHTTPResponse]:
        """Send one request; give its connection back, or close it if its answer was not read."""
        response = None
        try:
            response = self._pool.urlopen(
                method,
                self._prefix + path,
                body=body,
                headers={**_HEADERS, **headers},
                retries=False,
                redirect=False,
                preload_content=False,
                decode_content=False,
            )
            yield response
        except (NewConnectionError, ConnectTimeoutError) as error:
            raise FailedAttemptError(self._unreachable(error), unprocessed=True) from None
        except SSLError as error:
            raise TransportError(
                f"no secure connection to {self._pool.host} ({error}); check its certificate "
                "and this device's clock",
                code="tls",
            ) from None
        except (HTTPError, OSError) as error:
            raise FailedAttemptError(self._unreachable(error)) from None
        finally:
            if response is not None and not response.closed:
                response.close()

    def answer(
        self,
        response: urllib3.BaseHTTPResponse,
        *,
        limit: int,
        into: bytearray | None = None,
    ) -> bytearray:
        """Return the body of a success; raise what any other answer means."""
        if 200 <= response.status < 300:
            return self.read(response, limit=limit, into=into)
        raise self._refusal(response)

    def read(
        self,
        response: urllib3.BaseHTTPResponse,
        *,
        limit: int,
        into: bytearray | None = None,
    ) -> bytearray:
        """Return the body of any answer, whole and not larger than the limit."""
        content = bytearray() if into is None else into
        announced = response.headers.get("Content-Length", "")
        if announced.isascii() and announced.isdecimal() and len(content) + int(announced) > limit:
            raise _too_large(limit)
        deadline = time.monotonic() + self._timeouts.answer
        while True:
            try:
                # One arrival at a time, so that a server which drips is noticed.
                chunk = response.read1(_CHUNK)
            except (HTTPError, OSError) as error:
                raise FailedAttemptError(self._unreachable(error)) from None
            if not chunk:
                return content
            if len(content) + len(chunk) > limit:
                raise _too_large(limit)
            content += chunk
            if time.monotonic() > deadline:
                raise TransportError(
                    f"the answer took longer than {self._timeouts.answer:g} s", code="too_slow"
                )

    def _refusal(self, response: urllib3.BaseHTTPResponse) -> Exception:
        status = response.status
        if 300 <= status < 400:
            return TransportError(
                f"the server redirects (HTTP {status}), which is never followed; configure the URL "
                "that it should be",
                status=status,
                code="redirect",
            )
        # What cannot be read as a problem is an answer all the same: the status says enough.
        try:
            problem = decode_json(
                Problem,
                bytes(self.read(response, limit=_PROBLEM_LIMIT)),
                what="problem",
                limit=_PROBLEM_LIMIT,
            )
        except (DecodeError, TransportError, FailedAttemptError, HTTPError, OSError):
            problem = None
        busy = status in (429, 503)
        error = TransportError(
            f"the server refused with HTTP {status}"
            + (f" ({problem.code}): {problem.message[:300]}" if problem else ""),
            status=status,
            code=problem.code if problem else None,
            retryable=busy or status in (408, 500, 502, 504),
            retry_after=parse_retry_after(response.headers.get("Retry-After"), now=self._clock()),
        )
        return FailedAttemptError(error, unprocessed=busy)

    def _unreachable(self, error: Exception) -> TransportError:
        return TransportError(
            f"the exchange with {self._pool.host}:{self._pool.port} broke off "
            f"({type(error).__name__})",
            code="unreachable",
            retryable=True,
        )


def _open_pool(
    url: str,
    *,
    timeouts: Timeouts,
    connections: int,
    ca_certs: str | None,
    allow_plain_http: bool,
) -> tuple[str, urllib3.HTTPConnectionPool]:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"{url!r} is not a URL such as https://fl.example.com")
    if parts.username or parts.query or parts.fragment:
        raise ValueError("the server's URL takes no user name, query or fragment")
    prefix = parts.path.rstrip("/")
    timeout = urllib3.Timeout(connect=timeouts.connect, read=timeouts.read)
    if parts.scheme == "https":
        return prefix, MeteredSecurePool(
            parts.hostname,
            parts.port or 443,
            timeout=timeout,
            maxsize=connections,
            cert_reqs="CERT_REQUIRED",
            ca_certs=ca_certs,
        )
    if parts.hostname not in _LOOPBACK and not allow_plain_http:
        raise ValueError(
            f"{url!r} is plain http to another machine, where anybody on the way can read device "
            "tokens: use https, or say allow_plain_http=True on a network that you trust"
        )
    return prefix, MeteredPool(
        parts.hostname, parts.port or 80, timeout=timeout, maxsize=connections
    )


def _too_large(limit: int) -> TransportError:
    return TransportError(f"the answer is larger than the {limit} bytes allowed", code="too_large")
