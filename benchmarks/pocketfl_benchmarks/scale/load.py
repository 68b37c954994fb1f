"""A load generator: a bounded number of prepared requests over a bounded number of connections.

It reads no more of HTTP than status and length, so that it takes less of the machine than what it
measures. It talks to loopback only.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import urlsplit

import numpy as np

CONNECTIONS: Final = 32
ANSWER_SECONDS: Final = 60.0


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """One request, ready to be written."""

    method: str
    path: str
    token: str = ""
    body: bytes = b""
    media_type: str = "application/json"

    def encoded(self, host: str) -> bytes:
        """Return its bytes."""
        lines = [f"{self.method} {self.path} HTTP/1.1", f"Host: {host}"]
        if self.token:
            lines.append(f"Authorization: Bearer {self.token}")
        if self.body:
            lines += [f"Content-Type: {self.media_type}", f"Content-Length: {len(self.body)}"]
        return "\r\n".join([*lines, "", ""]).encode() + self.body


@dataclass(kw_only=True)
class Outcome:
    """What came of a load.

    Attributes
    ----------
    seconds : float
        From the first request to the last answer.
    latencies : ndarray of float, shape (N,)
        Seconds from when a request was due to the end of its answer; a late start counts as waiting.
    statuses : Counter of int
        Answers by HTTP status; 0 for none at all.
    bodies : list of bytes
        In the order of the requests.
    """

    seconds: float
    latencies: np.ndarray
    statuses: Counter[int] = field(default_factory=Counter)
    bodies: list[bytes] = field(default_factory=list)

    @property
    def errors(self) -> int:
        """Requests that were not answered with success."""
        return sum(count for status, count in self.statuses.items() if not 200 <= status < 300)

    @property
    def per_second(self) -> float:
        """Answered requests a second."""
        return len(self.bodies) / self.seconds

    def milliseconds(self, percentile: float) -> float:
        """Return a percentile of the latencies."""
        return float(1e3 * np.percentile(self.latencies, percentile))


def send(
    url: str,
    requests: Sequence[Prepared],
    *,
    connections: int = CONNECTIONS,
    per_second: float | None = None,
) -> Outcome:
    """Send every request once.

    Parameters
    ----------
    url : str
        Of the gateway: ``http://127.0.0.1:PORT``.
    requests : sequence of Prepared
        What to send.
    connections : int
        Kept open, and so the requests under way at a time.
    per_second : float, optional
        When requests are due; without it each connection sends its next one at once.
    """
    return asyncio.run(send_all(url, requests, connections=connections, per_second=per_second))


async def send_all(
    url: str,
    requests: Sequence[Prepared],
    *,
    connections: int = CONNECTIONS,
    per_second: float | None = None,
) -> Outcome:
    """Do what :func:`send` does, inside a running loop."""
    parts = urlsplit(url)
    if parts.hostname not in ("127.0.0.1", "localhost", "::1") or parts.port is None:
        raise ValueError(f"load goes to loopback only, not to {url}")
    host, port = parts.hostname, parts.port
    encoded = [request.encoded(parts.netloc) for request in requests]
    latencies = np.zeros(len(requests))
    statuses: Counter[int] = Counter()
    bodies = [b""] * len(requests)
    waiting = iter(range(len(requests)))
    began = time.perf_counter()

    async def work() -> None:
        connection: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        for number in waiting:
            due = time.perf_counter() if per_second is None else began + number / per_second
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            try:
                async with asyncio.timeout(ANSWER_SECONDS):
                    if connection is None:
                        connection = await asyncio.open_connection(host, port)
                    status, bodies[number] = await _ask(*connection, encoded[number])
            except (OSError, asyncio.IncompleteReadError, ValueError):
                status, connection = 0, None
            latencies[number] = time.perf_counter() - due
            statuses[status] += 1
        if connection is not None:
            connection[1].close()

    await asyncio.gather(*(work() for _ in range(min(connections, len(requests)))))
    return Outcome(
        seconds=time.perf_counter() - began, latencies=latencies, statuses=statuses, bodies=bodies
    )


async def _ask(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes
) -> tuple[int, bytes]:
    writer.write(request)
    head = await reader.readuntil(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    length = 0
    for line in lines:
        name, _, value = line.partition(":")
        if name.lower() == "content-length":
            length = int(value)
    body = await reader.readexactly(length) if length else b""
    return int(first.split(" ")[1]), body
