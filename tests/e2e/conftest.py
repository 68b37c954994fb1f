"""Parts for tests that cross tiers: a wire tap, a look into another process's memory."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest


class WireTap:
    """A TCP proxy on loopback that forwards every byte unchanged and keeps a copy of it."""

    def __init__(self, target: str) -> None:
        parts = urlsplit(target)
        assert parts.hostname and parts.port
        self._target = (parts.hostname, parts.port)
        self._lock = threading.Lock()
        self._recorded: list[bytearray] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.create_connection(self._target)
            for source, sink in ((client, server), (server, client)):
                stream = bytearray()
                with self._lock:
                    self._recorded.append(stream)
                threading.Thread(
                    target=self._pump, args=(source, sink, stream), daemon=True
                ).start()

    @staticmethod
    def _pump(source: socket.socket, sink: socket.socket, stream: bytearray) -> None:
        try:
            while chunk := source.recv(65536):
                stream += chunk
                sink.sendall(chunk)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            source.close()
            sink.close()

    def recorded(self) -> bytes:
        """Everything that went over the wire so far, both ways, connection by connection."""
        with self._lock:
            return b"\n".join(bytes(stream) for stream in self._recorded)

    def close(self) -> None:
        self._listener.close()


@pytest.fixture
def wire_tap() -> Iterator[type[WireTap]]:
    """The class, so that a test can tap the address that it has."""
    taps: list[WireTap] = []

    class Tracked(WireTap):
        def __init__(self, target: str) -> None:
            super().__init__(target)
            taps.append(self)

    yield Tracked
    for tap in taps:
        tap.close()


def search_memory(pid: int, needles: Iterable[bytes]) -> set[bytes]:
    """Return those needles that lie anywhere in the writable memory of a process (Linux)."""
    left = set(needles)
    found: set[bytes] = set()
    overlap = max(map(len, left)) - 1
    with (
        Path(f"/proc/{pid}/maps").open() as maps,
        Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory,
    ):
        for line in maps:
            span, permissions, *_ = line.split()
            if "rw" not in permissions or "[vvar]" in line:
                continue
            start, end = (int(edge, 16) for edge in span.split("-"))
            tail = b""
            while start < end and left:
                memory.seek(start)
                try:
                    chunk = memory.read(min(1 << 22, end - start))
                except OSError:
                    break
                if not chunk:
                    break
                window = tail + chunk
                hits = {needle for needle in left if needle in window}
                found |= hits
                left -= hits
                tail = window[-overlap:] if overlap else b""
                start += len(chunk)
    return found


@pytest.fixture
def memory_search() -> object:
    """:func:`search_memory`; skips nothing: reading a child's memory works for its parent."""
    return search_memory
