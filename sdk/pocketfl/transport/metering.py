"""Counting every byte of HTTP that a request sends and receives.

The counts are taken where bytes enter and leave the HTTP layer: request line, headers and body as
the socket accepts them, status line, headers, chunk framing and body as they are read from it. Not
counted is what lies below: TLS records and handshakes, TCP and IP, and what the kernel had received of
an answer whose connection was closed before anybody read it.
"""

from __future__ import annotations

import http.client
import io
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from pocketfl.transport.interface import RequestKind, Traffic


class Exchange:
    """Bytes of the requests that one thread makes within :func:`metered`."""

    __slots__ = ("down", "up")

    def __init__(self) -> None:
        self.up = 0
        self.down = 0


# Connections are shared by the devices of a process, so a connection cannot know whose bytes it
# carries; but a request begins and ends in one thread.
_current = threading.local()


@contextmanager
def metered() -> Iterator[Exchange]:
    """Count what this thread sends and receives over metered connections."""
    outer = getattr(_current, "exchange", None)
    exchange = Exchange()
    _current.exchange = exchange
    try:
        yield exchange
    finally:
        _current.exchange = outer


def _received(count: int) -> None:
    exchange = getattr(_current, "exchange", None)
    if exchange is not None:
        exchange.down += count


class _MeteredSocketFile(io.RawIOBase):
    """Stands between the socket and the buffer that http.client reads from.

    What has arrived is counted even if the parser never comes to it, because the connection breaks off
    or the answer is refused.
    """

    def __init__(self, raw: io.RawIOBase) -> None:
        self._raw = raw

    def readinto(self, buffer: Any, /) -> int | None:
        count = self._raw.readinto(buffer)
        if count:
            _received(count)
        return count

    def readable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._raw.fileno()

    def close(self) -> None:
        self._raw.close()
        super().close()


class _MeteredResponse(http.client.HTTPResponse):
    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.fp = io.BufferedReader(_MeteredSocketFile(self.fp.detach()))


class MeteredConnection(http.client.HTTPConnection):
    """A connection over plain HTTP that counts, and sends a request as a whole."""

    response_class = _MeteredResponse
    # Whoever connects says when; a request on a connection that was closed is an error.
    auto_open = 0

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._unsent: list[bytes] = []

    def exchange(
        self, method: str, path: str, *, headers: Mapping[str, str], body: bytes | None
    ) -> http.client.HTTPResponse:
        """Send a request and return its answer, of which only the head is read."""
        self._unsent.clear()
        self.request(method, path, body=body, headers=headers)
        # A server that refuses may answer before it has read everything, and what it says is heard.
        with suppress(BrokenPipeError, ConnectionResetError):
            # Headers and body in one piece: a server that gets them apart is woken up twice.
            _send(self.sock, b"".join(self._unsent))
        self._unsent.clear()
        return self.getresponse()

    def send(self, data: Any) -> None:
        """Keep a piece of a request until all of it is there."""
        self._unsent.append(data)


class MeteredSecureConnection(MeteredConnection, http.client.HTTPSConnection):
    """The same over TLS."""


def _send(sock: socket.socket, data: bytes) -> None:
    exchange = getattr(_current, "exchange", None)
    # Piece by piece, so that what left before a connection broke off is known to the byte.
    unsent = memoryview(data)
    while unsent:
        count = sock.send(unsent)
        if exchange is not None:
            exchange.up += count
        unsent = unsent[count:]


class Meter:
    """Adds up one device's traffic; safe to share between threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._total = Traffic()

    def add(self, kind: RequestKind, *, up: int, down: int) -> None:
        """Count one request."""
        with self._lock:
            self._total = self._total.with_request(kind, up=up, down=down)

    @property
    def total(self) -> Traffic:
        """All that was counted."""
        return self._total
