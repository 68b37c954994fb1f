"""The worker itself: connects to the app, does what it says, and ends when the app is gone."""

from __future__ import annotations

import json
import logging
import queue
import socket
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pocketfl.decoding import decode_json
from pocketfl.errors import DecodeError, PocketFLError
from pocketfl_app.home import Home
from pocketfl_app.worker.control import JobControl
from pocketfl_app.worker.jobs import run_job
from pocketfl_app.worker.messages import (
    MESSAGE_LIMIT,
    Command,
    Event,
    Failed,
    Ready,
    Report,
    Start,
    from_line,
    to_line,
)

log = logging.getLogger(__name__)
_LIMIT: Final = 64 * 2**10


@dataclass(frozen=True, kw_only=True)
class WorkerArgument:
    """What a worker is started with: as JSON on standard input, or as Android's service argument.

    Attributes
    ----------
    port : int
        Where the app listens on loopback.
    token : str
        What proves to the app that this is its worker and no other program of this machine.
    data, assets : str
        Folders; see :class:`~pocketfl_app.home.Home`.
    demo : bool
        See there.
    """

    port: int
    token: str
    data: str
    assets: str
    demo: bool

    def to_json(self) -> str:
        """Return the text that :func:`serve` takes."""
        return json.dumps(self.__dict__)

    @property
    def home(self) -> Home:
        """The install."""
        return Home(data=Path(self.data), assets=Path(self.assets), demo=self.demo)


def serve(argument: str) -> None:
    """Work for the app that started this process, until it is gone or says ``quit``.

    Parameters
    ----------
    argument : str
        A :class:`WorkerArgument` in JSON.

    Raises
    ------
    DecodeError
        If it is none.
    """
    given = decode_json(WorkerArgument, argument.encode(), what="argument", limit=_LIMIT)
    with socket.create_connection(("127.0.0.1", given.port), timeout=10) as connection:
        connection.settimeout(None)
        connection.sendall(given.token.encode() + b"\n")
        _Worker(connection, given.home).run()


class _Worker:
    """Reads commands in one thread and works in another."""

    def __init__(self, connection: socket.socket, home: Home) -> None:
        self._connection = connection
        self._home = home
        self._control = JobControl()
        self._jobs: queue.SimpleQueue[Start | None] = queue.SimpleQueue()

    def run(self) -> None:
        reader = threading.Thread(target=self._read, name="commands", daemon=True)
        reader.start()
        self._tell(Ready())
        while (start := self._jobs.get()) is not None:
            self._work(start)

    def _work(self, start: Start) -> None:
        try:
            run_job(start, self._home, self._control, self._tell)
        except PocketFLError as error:
            self._tell(Failed(reason=str(error)))
        except OSError as error:
            # The app may be gone, or the disk full; who still listens is told.
            self._tell(Failed(reason=f"{type(error).__name__}: {error}"))
        except Exception as error:
            log.exception("the job %s failed", start.job)
            self._tell(Failed(reason=f"{type(error).__name__}: {error}"))

    def _read(self) -> None:
        with self._connection.makefile("rb") as lines:
            while line := lines.readline(MESSAGE_LIMIT):
                try:
                    command = from_line(Command, line).message
                except DecodeError:
                    log.exception("a line that is no command")
                    continue
                if isinstance(command, Start):
                    self._control.begin()
                    self._jobs.put(command)
                elif command.action == "quit":
                    break
                else:
                    getattr(self._control, command.action)()
        # The app is gone: end at the next batch, with a checkpoint where there is a round.
        self._control.cancel()
        self._jobs.put(None)

    def _tell(self, event: Event) -> None:
        try:
            self._connection.sendall(to_line(Report(message=event)))
        except OSError:
            self._control.cancel()
