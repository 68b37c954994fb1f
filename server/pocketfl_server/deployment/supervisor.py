"""Starting and stopping the processes of one deployment; none is restarted silently."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from select import select
from tempfile import TemporaryDirectory
from types import FrameType
from typing import IO, Final

from msgspec.structs import replace

from pocketfl.errors import PocketFLError
from pocketfl_server.deployment.settings import DATABASE_VARIABLE, SECRET_VARIABLES, Settings, Tls

START_SECONDS: Final = 60.0
STOP_SECONDS: Final = 20.0
TRUSTED_TIER: Final = "trusted"
GATEWAY: Final = "gateway"
BACKLOG: Final = 2048

# The trusted tier gets no secret that is not its own.
_NOT_FOR_THE_TRUSTED_TIER: Final = frozenset(
    {DATABASE_VARIABLE, SECRET_VARIABLES["operator_key"], SECRET_VARIABLES["enrolment_key"]}
)


METRICS_VARIABLE: Final = "PROMETHEUS_MULTIPROC_DIR"
"""Where the gateways of one machine add up what they count (prometheus-client's multiprocess mode)."""


class DeploymentError(PocketFLError):
    """A process did not start or has ended; the message ends with what it said, if that is known."""


class Supervisor:
    """The trusted tier and the gateways of one file of settings, as processes.

    A process ends with this one, however this one ended, because it notices that its standard input
    is closed.

    Parameters
    ----------
    path : Path
        The file; each process reads it for itself.
    settings : Settings
        What it says.
    logs : Path, optional
        Folder for what the processes write, each in ``NAME.log``; by default they share this
        process's output.

    Attributes
    ----------
    url, trusted_url : str
        Where both tiers are, once started.
    processes : dict of str to Popen
        By name: ``trusted``, ``gateway``, ``gateway-2`` and so on.
    """

    url: str
    trusted_url: str

    def __init__(self, path: Path, settings: Settings, *, logs: Path | None = None) -> None:
        self._path = path
        self._settings = settings
        self._logs = logs
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self._counts: TemporaryDirectory[str] | None = None

    def start(self) -> None:
        """Start every process of the file and wait until all accept requests.

        Raises
        ------
        DeploymentError
            If one ends or stays silent; the others are stopped.
        OSError
            If an address is taken.
        """
        try:
            if self._settings.trusted_tier is not None:
                self.start_trusted_tier()
            if self._settings.back_end is not None:
                self.start_gateways()
        except BaseException:
            self.stop()
            raise

    def start_trusted_tier(self) -> None:
        """Start the trusted tier alone; :meth:`start` does everything."""
        settings = self._settings.trusted_tier
        if settings is None:
            raise ValueError("the settings start no trusted tier")
        with _listener(settings.host, settings.port) as listener:
            self.trusted_url = _url(listener, settings.host, settings.tls)
            ready = self._spawn(TRUSTED_TIER, listener)
            self._wait(TRUSTED_TIER, ready)
        _announce("trusted tier", self.trusted_url, settings.url_file, quiet=self._logs is not None)

    def start_gateways(self) -> None:
        """Start the back end's gateways alone; all of them accept from one socket."""
        settings = self._settings.back_end
        if settings is None:
            raise ValueError("the settings start no back end")
        trusted_url = settings.trusted_url or self.trusted_url
        if settings.gateways > 1 and self._counts is None:
            self._counts = TemporaryDirectory(prefix="pocketfl-metrics-")
        with _listener(settings.host, settings.port) as listener:
            self.url = _url(listener, settings.host, settings.tls)
            # One after the other: the first prepares the database.
            for number in range(1, settings.gateways + 1):
                name = GATEWAY if number == 1 else f"{GATEWAY}-{number}"
                ready = self._spawn(name, listener, "--trusted-url", trusted_url)
                self._wait(name, ready)
        _announce("back end", self.url, settings.url_file, quiet=self._logs is not None)

    def run(self) -> None:
        """Start all, wait for SIGINT or SIGTERM, and stop all, gateways first.

        Raises
        ------
        DeploymentError
            If a process did not start, or ended by itself: then the others are stopped.
        """
        asked: list[int] = []

        def ask(number: int, _frame: FrameType | None) -> None:
            asked.append(number)

        before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            self.start()
            while not asked:
                for name, process in self.processes.items():
                    status = process.poll()
                    if status is not None:
                        raise DeploymentError(
                            f"the process '{name}' has ended with status {status}; the others are "
                            "stopped. Start again once the cause is known: nothing is lost"
                        )
                time.sleep(0.2)
        finally:
            self.stop()
            for number, handler in before.items():
                signal.signal(number, handler)

    def stop(self) -> None:
        """Stop all processes in order; what devices were promised stays on disk."""
        for name in sorted(self.processes, key=lambda name: name == TRUSTED_TIER):
            self.stop_process(name)
        if self._counts is not None:
            self._counts.cleanup()
            self._counts = None

    def stop_process(self, name: str, *, kill: bool = False) -> None:
        """Stop one process; ``kill`` gives it no time to put things in order."""
        process = self.processes.pop(name, None)
        if process is None:
            return
        process.send_signal(signal.SIGKILL if kill else signal.SIGTERM)
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdin is not None:
            process.stdin.close()

    def keep_ports(self) -> None:
        """Have what is started again listen where it does now, also where the settings say any port."""
        tier, back_end = self._settings.trusted_tier, self._settings.back_end
        if tier is not None:
            tier = replace(tier, port=_port(self.trusted_url))
        if back_end is not None:
            back_end = replace(back_end, port=_port(self.url))
        self._settings = replace(self._settings, trusted_tier=tier, back_end=back_end)

    def log(self, name: str) -> str:
        """Return what a process has written so far, where that goes to files."""
        if self._logs is None:
            return ""
        path = self._logs / f"{name}.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def _spawn(self, name: str, listener: socket.socket, *options: str) -> IO[bytes]:
        """Start a process; returns the pipe in which it says that it is ready."""
        kind = name.partition("-")[0]
        environment = dict(os.environ)
        if kind == TRUSTED_TIER:
            for variable in _NOT_FOR_THE_TRUSTED_TIER:
                environment.pop(variable, None)
        elif self._counts is not None:
            environment[METRICS_VARIABLE] = self._counts.name
        reading, writing = os.pipe()
        with ExitStack() as stack:
            stack.callback(os.close, writing)
            log: IO[bytes] | None = None
            if self._logs is not None:
                log = stack.enter_context((self._logs / f"{name}.log").open("ab"))
            self.processes[name] = subprocess.Popen(  # noqa: S603 - our own program
                [
                    *(sys.executable, "-m", "pocketfl_server.deployment.processes", kind),
                    *(str(self._path), str(listener.fileno()), str(writing), *options),
                ],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env=environment,
                pass_fds=(listener.fileno(), writing),
                start_new_session=True,  # Ctrl-C is for this process, which then stops them in order
            )
        return os.fdopen(reading, "rb", buffering=0)

    def _wait(self, name: str, ready: IO[bytes]) -> None:
        with ready:
            answered, _, _ = select([ready], [], [], START_SECONDS)
            if answered and ready.read(1):
                return
        process = self.processes[name]
        if answered:
            process.wait(STOP_SECONDS)  # its end of the pipe is closed: it is ending
        state = "stays silent" if process.poll() is None else f"ended ({process.returncode})"
        said = self.log(name)[-2000:]
        ending = f"; its log ends with: {said}" if said else ""
        raise DeploymentError(f"the process '{name}' {state} at its start{ending}")


def _listener(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        raise DeploymentError(f"cannot listen on {host}, port {port}: {error.strerror}") from None


def _url(listener: socket.socket, host: str, tls: Tls | None) -> str:
    shown = f"[{host}]" if ":" in host else host
    return f"{'http' if tls is None else 'https'}://{shown}:{listener.getsockname()[1]}"


def _port(url: str) -> int:
    return int(url.rpartition(":")[2])


def _announce(name: str, url: str, url_file: str | None, *, quiet: bool) -> None:
    if not quiet:
        sys.stdout.write(f"{name} on {url}\n")
        sys.stdout.flush()
    if url_file is not None:
        path = Path(url_file)
        temporary = path.with_name(path.name + ".part")
        temporary.write_text(url)
        temporary.replace(path)
