"""The parent's side of the victim: starts its program, listens to it, kills it."""

from __future__ import annotations

import json
import multiprocessing
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from typing import Any, Final

from tests.chaos import phone
from tests.chaos.faults import RandomTime, WireMoment, WirePoint
from tests.chaos.proxy import FaultyProxy

SESSION_SECONDS: Final = 300.0
"""A session that takes longer hangs; on a busy machine one that computes takes a while."""

# Processes are forked off a server that has imported the program and nothing of this process.
_CONTEXT: Final = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["tests.chaos.phone"])


@dataclass
class SessionRecord:
    """What a session told before it ended, and how it ended.

    Attributes
    ----------
    killed : bool
        Whether SIGKILL ended it.
    hung : bool
        Whether it had to be ended because it took too long.
    events : list of dict
        As told.
    seconds : float
        From the program's start to its end.
    """

    killed: bool = False
    hung: bool = False
    events: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0

    def told(self, name: str) -> list[Any]:
        """Return every value that was told under a name."""
        return [event[name] for event in self.events if name in event]

    def last(self, name: str) -> Any:
        """Return the last of them, or None."""
        told = self.told(name)
        return told[-1] if told else None

    @property
    def acknowledged(self) -> list[int]:
        """Slots of the examples that the store said it has."""
        return [slot for part in self.told("acknowledged") for slot in part]

    def steps(self, *, cpu: bool = False) -> list[tuple[float, float]]:
        """Return when each training step began and ended, in seconds since the account was opened.

        That is after the check-in, and where a session is taken up again. With ``cpu`` seconds are
        those of the processor.
        """
        accounts = self.told("account")
        if not accounts:
            return []
        origin = accounts[0][cpu]
        batches = self.told("cpu_batch" if cpu else "batch")
        return [(began - origin, ended - origin) for began, ended in batches]

    @property
    def is_over(self) -> bool:
        """Whether the program came to its end."""
        return bool(self.told("over"))


def live(
    orders: phone.Orders,
    proxy: FaultyProxy,
    *,
    watcher: Callable[[str, WireMoment], None] | None = None,
) -> SessionRecord:
    """Run one session of the victim to its end, whatever end that is.

    The watcher is called at the moments of every request of its.
    """
    record = SessionRecord()
    receiver, sender = _CONTEXT.Pipe(duplex=False)
    process = _CONTEXT.Process(target=phone.main, args=(orders, sender), daemon=True)
    process.start()
    sender.close()
    kill = orders.faults.kill

    def at_moment(request: str, moment: WireMoment) -> None:
        if kill == WirePoint(request=request, moment=moment):
            process.kill()
        if watcher is not None:
            watcher(request, moment)

    proxy.harm(orders.faults.network)
    proxy.watch(at_moment)
    began = time.monotonic()
    timers: list[threading.Timer] = []
    try:
        while True:
            if not receiver.poll(max(0.0, began + SESSION_SECONDS - time.monotonic())):
                record.hung = True
                break
            event = json.loads(receiver.recv_bytes())
            record.events.append(event)
            if "ready" in event and isinstance(kill, RandomTime):
                timers.append(threading.Timer(kill.after, process.kill))
                timers[0].start()
    except (EOFError, OSError):
        pass  # it has ended, perhaps in the middle of a message
    for timer in timers:
        timer.cancel()
    record.killed = _end(process, hung=record.hung)
    record.seconds = time.monotonic() - began
    proxy.harm(None)
    proxy.watch(None)
    receiver.close()
    return record


def _end(process: BaseProcess, *, hung: bool) -> bool:
    """Wait for the process and say whether it was killed, not by us for hanging."""
    process.join(0.0 if hung else SESSION_SECONDS)
    if process.is_alive():
        with suppress(OSError):
            process.kill()
        process.join()
        return False
    return process.exitcode == -9
