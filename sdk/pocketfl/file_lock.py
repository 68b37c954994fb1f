"""Locks between processes, held by the system: gone with the process that has one, however it dies."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_FLAGS = os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)


@contextmanager
def locked_file(path: Path) -> Iterator[int]:
    """Open a file, made with owner-only rights if there is none, and hold its lock; waits for it.

    Yields
    ------
    int
        The file's descriptor, for reading and writing.

    Raises
    ------
    OSError
        If the file cannot be opened, or its file system knows no locks.
    """
    descriptor = open_lock(path)
    try:
        take_lock(descriptor, wait=True)
        yield descriptor
    finally:
        os.close(descriptor)


def open_lock(path: Path) -> int:
    """Open a file for its lock, made with owner-only rights if there is none."""
    return os.open(path, _FLAGS, 0o600)


if sys.platform == "win32":
    import msvcrt

    def take_lock(descriptor: int, *, wait: bool) -> None:
        """Take the lock of an open file; closing it gives the lock back.

        Raises
        ------
        OSError
            If somebody else holds it and we do not wait, or the file system knows no locks.
        """
        # Far behind the contents, because locked bytes cannot be read by others.
        os.lseek(descriptor, 2**30, os.SEEK_SET)
        msvcrt.locking(descriptor, msvcrt.LK_LOCK if wait else msvcrt.LK_NBLCK, 1)
        os.lseek(descriptor, 0, os.SEEK_SET)

else:
    import fcntl

    def take_lock(descriptor: int, *, wait: bool) -> None:
        """Take the lock of an open file; closing it gives the lock back.

        Raises
        ------
        OSError
            If somebody else holds it and we do not wait, or the file system knows no locks.
        """
        fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
