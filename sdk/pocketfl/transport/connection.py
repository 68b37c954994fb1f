"""Single requests to one server over HTTP, with Python's own client: others cost every app memory.

Every answer is bounded in size while it streams, in time as a whole, and read only as far as that;
redirects are never followed; nothing is decompressed. What became of a request is either its answer
or an error that says whether it may be asked again.
"""

from __future__ import annotations

import http.client
import select
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final
from urllib.parse import SplitResult, urlsplit

from pocketfl import __version__
from pocketfl.decoding import decode_json
from pocketfl.errors import DecodeError, TransportError
from pocketfl.protocol import Problem
from pocketfl.transport.metering import MeteredConnection, MeteredSecureConnection
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
        self._connections = connections
        parts = _split(url, allow_plain_http=allow_plain_http)
        self._prefix = parts.path.rstrip("/")
        self._host = str(parts.hostname)
        self._tls = _tls(ca_certs) if parts.scheme == "https" else None
        self._port = parts.port or (80 if self._tls is None else 443)
        self._lock = threading.Lock()
        self._idle: list[MeteredConnection] = []
        self._is_closed = False

    def close(self) -> None:
        """Close the connections."""
        with self._lock:
            idle, self._idle, self._is_closed = self._idle, [], True
        for connection in idle:
            connection.close()

    @contextmanager
    def request(
        self,
        method: str,
        path: str,
        *,
        headers: Mapping[str, str],
        body: bytes | None = None,
    ) -> Iterator[http.client.HTTPResponse]:
        """Send one request; keep its connection, or close it if its answer was not read."""
        connection = self._take()
        response: http.client.HTTPResponse | None = None
        try:
            response = connection.exchange(
                method, self._prefix + path, headers={**_HEADERS, **headers}, body=body
            )
            yield response
        except ssl.SSLError as error:
            raise self._insecure(error) from None
        except (http.client.HTTPException, OSError) as error:
            raise FailedAttemptError(self._unreachable(error)) from None
        finally:
            self._give_back(connection, is_usable=response is not None and _is_whole(response))

    def _take(self) -> MeteredConnection:
        """Return a connection that is open: one that is idle, or a new one."""
        while True:
            with self._lock:
                connection = self._idle.pop() if self._idle else None
            if connection is None:
                return self._connect()
            if not _was_dropped(connection.sock):
                return connection
            connection.close()

    def _connect(self) -> MeteredConnection:
        connect = self._timeouts.connect
        connection: MeteredConnection
        if self._tls is None:
            connection = MeteredConnection(self._host, self._port, timeout=connect)
        else:
            connection = MeteredSecureConnection(
                self._host, self._port, timeout=connect, context=self._tls
            )
        try:
            connection.connect()
        except ssl.SSLError as error:
            connection.close()
            raise self._insecure(error) from None
        except OSError as error:
            connection.close()
            raise FailedAttemptError(self._unreachable(error), unprocessed=True) from None
        connection.sock.settimeout(self._timeouts.read)
        return connection

    def _give_back(self, connection: MeteredConnection, *, is_usable: bool) -> None:
        with self._lock:
            if is_usable and not self._is_closed and len(self._idle) < self._connections:
                self._idle.append(connection)
                return
        connection.close()

    def answer(
        self,
        response: http.client.HTTPResponse,
        *,
        limit: int,
        into: bytearray | None = None,
        expecting: Callable[[int], None] | None = None,
    ) -> bytearray:
        """Return the body of a success; raise what any other answer means."""
        if 200 <= response.status < 300:
            return self.read(response, limit=limit, into=into, expecting=expecting)
        raise self._refusal(response)

    def read(
        self,
        response: http.client.HTTPResponse,
        *,
        limit: int,
        into: bytearray | None = None,
        expecting: Callable[[int], None] | None = None,
    ) -> bytearray:
        """Return the body of any answer, whole and not larger than the limit.

        ``expecting`` is told, before they are read, how many bytes are still to come: all of them,
        where the server says how many there are.
        """
        content = bytearray() if into is None else into
        announced = response.headers.get("Content-Length", "")
        if announced.isascii() and announced.isdecimal() and len(content) + int(announced) > limit:
            raise _too_large(limit)
        deadline = time.monotonic() + self._timeouts.answer
        while True:
            if expecting is not None:
                expecting(_CHUNK if response.length is None else response.length)
            try:
                # One arrival at a time, so that a server which drips is noticed.
                chunk = response.read1(_CHUNK)
            except (http.client.HTTPException, OSError) as error:
                raise FailedAttemptError(self._unreachable(error)) from None
            if not chunk:
                if response.length:
                    missing = http.client.IncompleteRead(b"", response.length)
                    raise FailedAttemptError(self._unreachable(missing))
                return content
            if len(content) + len(chunk) > limit:
                raise _too_large(limit)
            content += chunk
            if time.monotonic() > deadline:
                raise TransportError(
                    f"the answer took longer than {self._timeouts.answer:g} s", code="too_slow"
                )

    def _refusal(self, response: http.client.HTTPResponse) -> Exception:
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
        except (DecodeError, TransportError, FailedAttemptError):
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

    def _insecure(self, error: ssl.SSLError) -> TransportError:
        reason: object = error
        if isinstance(error, ssl.SSLCertVerificationError):
            reason = f"its certificate is refused: {error.verify_message}"
        return TransportError(
            f"no secure connection to {self._host} ({reason}); check its certificate and this "
            "device's clock",
            code="tls",
        )

    def _unreachable(self, error: Exception) -> TransportError:
        return TransportError(
            f"the exchange with {self._host}:{self._port} broke off ({type(error).__name__})",
            code="unreachable",
            retryable=True,
        )


def _split(url: str, *, allow_plain_http: bool) -> SplitResult:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"{url!r} is not a URL such as https://fl.example.com")
    if parts.username or parts.query or parts.fragment:
        raise ValueError("the server's URL takes no user name, query or fragment")
    if parts.scheme == "http" and parts.hostname not in _LOOPBACK and not allow_plain_http:
        raise ValueError(
            f"{url!r} is plain http to another machine, where anybody on the way can read device "
            "tokens: use https, or say allow_plain_http=True on a network that you trust"
        )
    return parts


def _tls(ca_certs: str | None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=ca_certs)
    context.set_alpn_protocols(["http/1.1"])
    return context


def _is_whole(response: http.client.HTTPResponse) -> bool:
    """Return whether all of an answer was read, and close it: another may come after it."""
    # What is left unread would be taken for the beginning of the next answer.
    is_whole = not response.will_close and (response.isclosed() or response.length == 0)
    response.close()
    return is_whole


def _was_dropped(sock: socket.socket) -> bool:
    """Return whether an idle connection was closed, or says something that nobody asked for."""
    if hasattr(select, "poll"):
        poll = select.poll()
        poll.register(sock, select.POLLIN)
        return bool(poll.poll(0))
    return bool(select.select([sock], [], [], 0)[0])  # Windows


def _too_large(limit: int) -> TransportError:
    return TransportError(f"the answer is larger than the {limit} bytes allowed", code="too_large")
