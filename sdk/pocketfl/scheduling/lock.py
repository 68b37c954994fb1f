"""One session at a time, over all processes that open the same store.

An app has services, widgets and alarms that may each start a process. The lock is the operating
system's, on an empty file beside the store: it is gone with the process that held it, however it died.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from pocketfl.errors import StoreError
from pocketfl.file_lock import open_lock, take_lock

_HELD: Final = frozenset({errno.EACCES, errno.EAGAIN, errno.EDEADLK})


class SessionLock:
    """The right to run a session; a context manager over a lock that is held already.

    Parameters
    ----------
    store : str or Path
        The device's file; the lock is ``<name>.session`` beside it and stays there, empty.
    """

    def __init__(self, store: str | Path) -> None:
        store = Path(store)
        self.path: Final = store.with_name(store.name + ".session")
        self._descriptor: int | None = None

    def acquire(self) -> bool:
        """Take the lock if nobody holds it, in this process or another; never waits.

        Raises
        ------
        StoreError
            If the file cannot be made, or its file system knows no locks.
        """
        if self._descriptor is not None:
            return False
        try:
            descriptor = open_lock(self.path)
        except OSError as error:
            raise StoreError(
                f"cannot open the lock {self.path}: {error.strerror}; the store's folder must be "
                "writable"
            ) from None
        try:
            take_lock(descriptor, wait=False)
        except OSError as error:
            os.close(descriptor)
            if error.errno in _HELD:
                return False
            raise StoreError(
                f"cannot lock {self.path}: {error.strerror}; keep the store on a file system of "
                "this device"
            ) from None
        self._descriptor = descriptor
        return True

    def release(self) -> None:
        """Give the lock back; no error when it is not held."""
        if self._descriptor is not None:
            descriptor, self._descriptor = self._descriptor, None
            os.close(descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.release()
