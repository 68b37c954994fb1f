"""Counting every byte of HTTP that a request sends and receives.

The counts are taken where bytes enter and leave the HTTP layer: request line, headers and body as
they are handed to the socket, status line, headers, chunk framing and body as they are read from it.
Not counted is what lies below: TLS records and handshakes, TCP and IP.
"""

from __future__ import annotations

import http.client
import io
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO, cast

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection

from pocketfl.transport.interface import Traffic


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


class _MeteredReader(io.BufferedIOBase):
    """Stands between http.client's parser and the socket's file."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = cast("io.BufferedReader", file)

    def readline(self, size: int | None = -1, /) -> bytes:
        line = self._file.readline(-1 if size is None else size)
        _received(len(line))
        return line

    def read(self, size: int | None = -1, /) -> bytes:
        data = self._file.read(size)
        _received(len(data))
        return data

    def read1(self, size: int = -1, /) -> bytes:
        data = self._file.read1(size)
        _received(len(data))
        return data

    def readinto(self, buffer: Any, /) -> int:
        count = self._file.readinto(buffer)
        _received(count)
        return count

    def peek(self, size: int = 0, /) -> bytes:
        return self._file.peek(size)

    def readable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._file.fileno()

    def close(self) -> None:
        self._file.close()

    @property
    def closed(self) -> bool:
        return self._file.closed


class _MeteredResponse(http.client.HTTPResponse):
    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.fp = cast("io.BufferedReader", _MeteredReader(self.fp))


class _MeteredConnection(HTTPConnection):
    response_class = _MeteredResponse

    def send(self, data: Any) -> None:
        super().send(data)
        exchange = getattr(_current, "exchange", None)
        if exchange is not None:
            exchange.up += len(data)


class _MeteredSecureConnection(_MeteredConnection, HTTPSConnection):
    pass


class MeteredPool(urllib3.HTTPConnectionPool):
    """Keep-alive connections over plain HTTP that count."""

    ConnectionCls = _MeteredConnection


class MeteredSecurePool(urllib3.HTTPSConnectionPool):
    """Keep-alive connections over TLS that count."""

    ConnectionCls = _MeteredSecureConnection


class Meter:
    """Adds up one device's traffic; safe to share between threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._total = Traffic()

    def add(self, *, up: int, down: int) -> None:
        """Count one request."""
        with self._lock:
            total = self._total
            self._total = Traffic(
                bytes_up=total.bytes_up + up,
                bytes_down=total.bytes_down + down,
                requests=total.requests + 1,
            )

    @property
    def total(self) -> Traffic:
        """All that was counted."""
        return self._total
