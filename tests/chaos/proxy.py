"""A TCP proxy that passes the requests of one device on, and harms some of them on the way.

It reads whole requests and answers, so that it can cut, double, flip or lose exactly what it is told;
it never looks into them beyond path and length.
"""

from __future__ import annotations

import random
import re
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from tests.chaos.faults import NetworkFault, RequestName, WireMoment

PATIENCE_SECONDS: Final = 2.0
"""How long a broken message is waited for."""
ANSWER_SECONDS: Final = 60.0
"""How long a whole one: servers of a busy machine take a while."""
DRIP_SECONDS: Final = 0.3
"""How long a slowed message takes."""

_KINDS: Final = (
    ("enrol", re.compile(rb"POST \S*/v1/devices ")),
    ("notices", re.compile(rb"GET \S*/v1/notices ")),
    ("check_in", re.compile(rb"POST \S*/check-in ")),
    ("upload", re.compile(rb"PUT \S*/v1/leases/\S*/report ")),
    ("plan", re.compile(rb"GET \S*/v1/plans/\S* ")),
    ("parameters", re.compile(rb"GET \S*/v1/parameters/\S* ")),
    ("features", re.compile(rb"GET \S*/v1/features/\S* ")),
)
_LENGTH: Final = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.IGNORECASE)

Watcher = Callable[[RequestName, WireMoment], None]


class BrokenOffError(Exception):
    """A peer closed in the middle of a message, or for good."""


@dataclass
class Exchange:
    """A request that arrived, and the bytes of HTTP that it came to."""

    request: RequestName
    up: int
    down: int = 0


class FaultyProxy:
    """Listens on loopback in front of a back end.

    Parameters
    ----------
    target : str
        URL of the back end.
    seed : int
        Decides which bits flip.

    Attributes
    ----------
    url : str
        Where the device finds it.
    bytes_up, bytes_down : int
        What devices sent to it and got from it.
    requests : Counter
        Requests that arrived, by kind.
    exchanges : list of Exchange
        All of them in their order.
    """

    def __init__(self, target: str, *, seed: int) -> None:
        parts = urlsplit(target)
        assert parts.hostname and parts.port
        self._target = (parts.hostname, parts.port)
        self._random = random.Random(seed)
        self._lock = threading.Lock()
        self._fault: NetworkFault | None = None
        self._left = 0
        self._watcher: Watcher | None = None
        self._open: set[socket.socket] = set()
        self.bytes_up = 0
        self.bytes_down = 0
        self.requests: Counter[RequestName] = Counter()
        self.exchanges: list[Exchange] = []
        self.harmed = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def harm(self, fault: NetworkFault | None) -> None:
        """From now on do this to requests; None is a sound network."""
        with self._lock:
            self._fault = fault
            self._left = fault.times if fault is not None else 0

    def watch(self, watcher: Watcher | None) -> None:
        """Call somebody at the moments of every request."""
        self._watcher = watcher

    def close(self) -> None:
        """Stop listening and break off what is open."""
        self._listener.close()
        with self._lock:
            connections = list(self._open)
        for connection in connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with self._lock:
            self._open.add(client)
        try:
            with client:
                while True:
                    request = _read_message(client)
                    self._exchange(client, request)
        except (BrokenOffError, OSError):
            pass
        finally:
            with self._lock:
                self._open.discard(client)

    def _exchange(self, client: socket.socket, request: bytes) -> None:
        kind = next((name for name, form in _KINDS if form.match(request)), "other")
        exchange = Exchange(kind, up=len(request))
        with self._lock:
            self.requests[kind] += 1
            self.exchanges.append(exchange)
            self.bytes_up += len(request)
            fault = self._fault if self._fault is not None and self._fault.request == kind else None
            if fault is not None and self._left == 0:
                fault = None
            if fault is not None:
                self._left -= 1
                self.harmed += 1
        self._tell(kind, "asked")
        answer = self._forward(client, request, fault)
        self._tell(kind, "acted")
        self._answer(client, answer, fault, exchange)
        self._tell(kind, "answered")

    def _tell(self, kind: RequestName, moment: WireMoment) -> None:
        watcher = self._watcher
        if watcher is not None:
            watcher(kind, moment)

    def _forward(self, client: socket.socket, request: bytes, fault: NetworkFault | None) -> bytes:
        """Give a request, or what is left of it, to the back end and return its answer."""
        name = fault.kind if fault is not None else ""
        if fault is None:
            return self._ask(request, patience=ANSWER_SECONDS)
        if name == "refused":
            _reset(client)
            raise BrokenOffError
        if name == "cut_up":
            with self._connect() as server:
                server.sendall(request[: _place(request, fault)])
                _reset(client)
                raise BrokenOffError
        if name == "corrupt_up":
            return self._ask(self._flip(request, fault))
        if name == "duplicated":
            first, second = self._ask(request), self._ask(request)
            return second if fault.second_answer else first
        if name == "slow":
            with self._connect() as server:
                _drip(server, request)
                return _read_message(server)
        return self._ask(request)

    def _answer(
        self,
        client: socket.socket,
        answer: bytes,
        fault: NetworkFault | None,
        exchange: Exchange,
    ) -> None:
        name = fault.kind if fault is not None else ""
        if fault is not None and name == "answer_lost":
            _reset(client)
            raise BrokenOffError
        if fault is not None and name == "cut_down":
            part = answer[: _place(answer, fault)]
            self._count_down(exchange, len(part))
            client.sendall(part)
            client.shutdown(socket.SHUT_WR)
            raise BrokenOffError
        if fault is not None and name == "corrupt_down":
            answer = self._flip(answer, fault)
        self._count_down(exchange, len(answer))
        if name == "slow":
            _drip(client, answer)
        else:
            client.sendall(answer)

    def _count_down(self, exchange: Exchange, count: int) -> None:
        with self._lock:
            exchange.down += count
            self.bytes_down += count

    def _flip(self, message: bytes, fault: NetworkFault) -> bytes:
        place = _place(message, fault)
        with self._lock:
            bit = 1 << self._random.randrange(8)
        return message[:place] + bytes([message[place] ^ bit]) + message[place + 1 :]

    def _ask(self, request: bytes, *, patience: float = PATIENCE_SECONDS) -> bytes:
        with self._connect(patience) as server:
            server.sendall(request)
            return _read_message(server)

    def _connect(self, patience: float = PATIENCE_SECONDS) -> socket.socket:
        server = socket.create_connection(self._target, timeout=patience)
        server.settimeout(patience)
        return server


def _place(message: bytes, fault: NetworkFault) -> int:
    return min(int(fault.place * len(message)), len(message) - 1)


def _read_message(source: socket.socket) -> bytes:
    """Return one HTTP message: up to the blank line, and as much as its length says."""
    data = bytearray()
    end = -1
    while end < 0:
        _receive(source, data)
        end = data.find(b"\r\n\r\n")
    length = _LENGTH.search(data[: end + 2])
    total = end + 4 + (int(length[1]) if length else 0)
    while len(data) < total:
        _receive(source, data)
    return bytes(data[:total])


def _receive(source: socket.socket, into: bytearray) -> None:
    chunk = source.recv(65536)
    if not chunk:
        raise BrokenOffError
    into += chunk


def _drip(sink: socket.socket, message: bytes) -> None:
    pieces = 6
    size = -(-len(message) // pieces)
    for start in range(0, len(message), size):
        sink.sendall(message[start : start + size])
        time.sleep(DRIP_SECONDS / pieces)


def _reset(client: socket.socket) -> None:
    # With no time to linger the peer gets a reset instead of an orderly end.
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()
