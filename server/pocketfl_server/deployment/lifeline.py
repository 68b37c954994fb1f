"""A process that ends with the one that started it, however that one ended."""

from __future__ import annotations

import os
import signal
import threading

_STDIN = 0


def end_with_stdin() -> None:
    """Ask this process to stop, as SIGTERM does, once its standard input is closed.

    The starter holds the other end of the pipe; the system closes that even after SIGKILL, so a driver
    that is killed leaves no server behind.
    """
    threading.Thread(target=_wait, name="lifeline", daemon=True).start()


def _wait() -> None:
    while os.read(_STDIN, 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
