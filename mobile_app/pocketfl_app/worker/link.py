"""The app's end of the line to its worker: starts it, talks to it, and starts it again if it dies."""

from __future__ import annotations

import contextlib
import hmac
import secrets
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import IO, Final, Protocol

from pocketfl.errors import DecodeError
from pocketfl_app.home import Home
from pocketfl_app.worker.messages import (
    MESSAGE_LIMIT,
    Command,
    Control,
    Event,
    Failed,
    Report,
    Start,
    from_line,
    to_line,
)
from pocketfl_app.worker.program import WorkerArgument

START_SECONDS: Final = 90.0
DIED: Final = "worker_died"
"""Reason of the failure that the app makes of a worker's death."""


class Launched(Protocol):
    """A worker that was started."""

    def stop(self) -> None:
        """End it."""


class DesktopWorker:
    """A process of its own.

    Parameters
    ----------
    argument : str
        Goes to its standard input: other users of the machine can read command lines.
    """

    def __init__(self, argument: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "pocketfl_app.worker"], stdin=subprocess.PIPE
        )
        pipe: IO[bytes] | None = self.process.stdin
        if pipe is not None:
            with contextlib.suppress(BrokenPipeError):
                pipe.write(argument.encode() + b"\n")
                pipe.flush()
            pipe.close()

    def stop(self) -> None:
        """End it: it has a moment to write a checkpoint."""
        try:
            self.process.wait(3)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class WorkerLink:
    """Starts the worker when it is first needed, and again after it died.

    Parameters
    ----------
    home : Home
        The install that it works for.
    on_event : callable
        Told what the worker reports, from another thread; a worker that dies with a job is reported as
        :class:`Failed` with the reason :data:`DIED`.
    launch : callable
        Starts a worker with an argument; a service on Android.
    """

    def __init__(
        self,
        home: Home,
        on_event: Callable[[Event], None],
        *,
        launch: Callable[[str], Launched] = DesktopWorker,
    ) -> None:
        self._home = home
        self._on_event = on_event
        self._launch = launch
        self._lock = threading.Lock()
        self._connection: socket.socket | None = None
        self.worker: Launched | None = None
        self._busy = False
        self._closed = False

    @property
    def busy(self) -> bool:
        """Whether a job is under way."""
        return self._busy

    def start(self, job: Start) -> None:
        """Begin a job, unless one is under way; takes as long as starting a worker if there is none.

        Called off the UI thread.
        """
        with self._lock:
            if self._busy or self._closed:
                return
            self._busy = True
        try:
            self._connected().sendall(to_line(Command(message=job)))
        except OSError as error:
            self._busy = False
            self._on_event(Failed(reason=f"{DIED}: {error}"))

    def warm_up(self) -> None:
        """Start the worker now, so that the first job does not wait for it."""
        with contextlib.suppress(OSError):
            self._connected()

    def control(self, action: Control) -> None:
        """Say something about the job under way."""
        connection = self._connection
        if connection is not None:
            with contextlib.suppress(OSError):
                connection.sendall(to_line(Command(message=action)))

    def close(self) -> None:
        """End the worker; a round that is under way goes on another time."""
        self._closed = True
        self.control(Control(action="quit"))
        connection, worker = self._connection, self.worker
        if connection is not None:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()
        if worker is not None:
            worker.stop()

    def _connected(self) -> socket.socket:
        with self._lock:
            if self._closed:
                raise OSError("the app is closing")
            if self._connection is None:
                self._connection = self._open()
            return self._connection

    def _open(self) -> socket.socket:
        token = secrets.token_urlsafe(32)
        with socket.create_server(("127.0.0.1", 0)) as server:
            server.settimeout(START_SECONDS)
            argument = WorkerArgument(
                port=server.getsockname()[1],
                token=token,
                data=str(self._home.data),
                assets=str(self._home.assets),
                demo=self._home.demo,
            )
            self.worker = self._launch(argument.to_json())
            connection = _accept(server, token)
        threading.Thread(
            target=self._read, args=(connection,), name="worker reports", daemon=True
        ).start()
        return connection

    def _read(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError, ValueError), connection.makefile("rb") as lines:
            while line := lines.readline(MESSAGE_LIMIT):
                try:
                    event = from_line(Report, line).message
                except DecodeError as error:
                    event = Failed(reason=str(error))
                if event.kind not in ("ready", "progress"):
                    self._busy = False
                self._on_event(event)
        with self._lock:
            if self._connection is connection:
                self._connection = None
        if self._busy and not self._closed:
            self._busy = False
            self._on_event(Failed(reason=DIED))


def _accept(server: socket.socket, token: str) -> socket.socket:
    """Return the connection of who knows the token; others of this machine are turned away."""
    while True:
        connection, _ = server.accept()
        connection.settimeout(START_SECONDS)
        said = b""
        with contextlib.suppress(OSError):
            while not said.endswith(b"\n") and len(said) <= len(token):
                part = connection.recv(len(token) + 1 - len(said))
                if not part:
                    break
                said += part
        if hmac.compare_digest(said, token.encode() + b"\n"):
            connection.settimeout(None)
            return connection
        connection.close()
