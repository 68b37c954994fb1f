"""A real HTTP server on loopback that answers byte for byte what a test says."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import sha256

import numpy as np
import pytest

from pocketfl.protocol import CheckIn
from pocketfl.reports import make_report
from pocketfl.sealing import ReportContext, generate_key_pair, key_id
from pocketfl.transport import HttpTransport, RetryPolicy

TOKEN = "device-token-0123456789"
LEASE = "lease-0123456789abcdef"
CHECK_IN = CheckIn(sdk="0.1.0", plan_schemas=(1,), runtimes=("onnxruntime",))
ROUND = {
    "task": "clicks",
    "round": 3,
    "plan_sha256": "a" * 64,
    "parameters_sha256": "b" * 64,
    "model_version": 2,
}
ASSIGNMENT = {
    **ROUND,
    "kind": "assignment",
    "lease": LEASE,
    "expires_at": 1e9,
    "aggregator": {"key_id": "c" * 64, "public_key": "d" * 64},
}
CONTENT = bytes(range(256)) * 1000
DIGEST = sha256(CONTENT).hexdigest()


@dataclass
class Request:
    """One request as it came in."""

    raw: bytes
    method: str
    path: str
    headers: dict[str, str]
    body: bytes


Answer = bytes | Callable[[Request], bytes] | None
"""Bytes to send (the connection stays open if they are a whole answer), or None to hang up."""


def answer(
    body: bytes | dict = b"", *, status: int = 200, cut: int | None = None, **headers: str
) -> bytes:
    """Write an answer; with ``cut`` only that much of the body is sent, then the server hangs up."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [f"HTTP/1.1 {status} Whatever", f"Content-Length: {len(content)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    head = "\r\n".join([*lines, "", ""]).encode()
    return head + (content if cut is None else content[:cut] + HANG_UP)


HANG_UP = b"<<hang up>>"


@dataclass
class ScriptedServer:
    """Gives its answers in order; the last one is given again and again."""

    answers: list[Answer] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)
    connections: int = 0
    bytes_received: int = 0
    bytes_sent: int = 0

    def __post_init__(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._lock = threading.Lock()
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, connection.makefile("rb") as stream:
            while True:
                request = self._read(stream)
                if request is None:
                    return
                with self._lock:
                    self.requests.append(request)
                    self.bytes_received += len(request.raw)
                    reply = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
                data = reply(request) if callable(reply) else reply
                if data is None:
                    return
                hang_up = data.endswith(HANG_UP)
                data = data.removesuffix(HANG_UP)
                self.bytes_sent += len(data)
                try:
                    connection.sendall(data)
                except OSError:
                    return
                if hang_up:
                    return

    @staticmethod
    def _read(stream) -> Request | None:
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            try:
                line = stream.readline()
            except ConnectionResetError:
                return None
            if not line:
                return None
            head += line
        first, *lines = head.decode().split("\r\n")[:-2]
        headers = dict(line.split(": ", 1) for line in lines)
        headers = {name.lower(): value for name, value in headers.items()}
        body = stream.read(int(headers.get("content-length", 0)))
        method, path, _ = first.split(" ")
        return Request(head + body, method, path, headers, body)

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def server():
    scripted = ScriptedServer()
    yield scripted
    scripted.close()


@pytest.fixture
def naps() -> list[float]:
    """Every wait that the transport would have made."""
    return []


@pytest.fixture
def transport(server, naps):
    opened = HttpTransport(
        server.url,
        retries=RetryPolicy(attempts=4, first_wait=1.0, longest_wait=8.0, longest_retry_after=30),
        sleep=naps.append,
        uniform=lambda low, high: high,
    )
    yield opened
    opened.close()


@pytest.fixture
def report(tiny_plan):
    _, public = generate_key_pair()
    context = ReportContext(
        key_id=key_id(public),
        policy_hash=tiny_plan.manifest.policy_hash,
        plan_sha256=tiny_plan.sha256,
        task="clicks",
        round=3,
        model_version=2,
        lease=LEASE,
    )
    return make_report(np.zeros(3), plan=tiny_plan, context=context, public_key=public)
