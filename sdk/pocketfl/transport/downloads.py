"""What has been downloaded once need not be downloaded again.

Plans and parameters are named by their SHA-256, so a copy can never be stale, and whoever put it there,
it is checked against its name when it is read. The list of open rounds is revalidated by its ETag.

Devices of one process may share a cache. It keeps what each download cost on the wire, so that a device
which got its bytes from here can still account for them as if it had been alone.
"""

from __future__ import annotations

import os
import re
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Final

from pocketfl.protocol import Notices

_FILE_NAME: Final = re.compile(r"([0-9a-f]{64})\.(\d{1,15})\.(\d{1,15})\Z")


@dataclass(frozen=True)
class Download:
    """Content, and the bytes of HTTP that getting it took.

    Attributes
    ----------
    data : bytes
        What was asked for.
    bytes_up, bytes_down : int
        Of request and answer, headers included.
    """

    data: bytes
    bytes_up: int
    bytes_down: int


@dataclass(frozen=True, kw_only=True)
class CachedNotices:
    """The open rounds as last heard.

    Attributes
    ----------
    notices : Notices
        What the server said.
    etag : str or None
        Its name for this state, if it gave one.
    bytes_up, bytes_down : int
        Of the exchange that brought it.
    bytes_unchanged : int
        Of an answer "not modified"; until one was seen, of the headers of the full answer.
    checked_at : float
        When the server last confirmed it, by the cache's clock.
    """

    notices: Notices
    etag: str | None
    bytes_up: int
    bytes_down: int
    bytes_unchanged: int
    checked_at: float = 0.0


class DownloadCache:
    """Content by hash, in memory and optionally in a folder; safe to share between threads.

    Parameters
    ----------
    memory_bytes : int
        Most bytes of content kept in memory; the least recently used goes first.
    directory : str or Path, optional
        Folder that keeps content across restarts; made when it does not exist.
    directory_bytes : int
        Most bytes kept there.
    notices_seconds : float
        How long the list of open rounds is used without asking the server again. 0, the default,
        always asks; a fleet of devices in one process sets a few seconds.
    clock : callable, optional
        Monotonic seconds.
    """

    def __init__(
        self,
        *,
        memory_bytes: int = 64 * 2**20,
        directory: str | Path | None = None,
        directory_bytes: int = 256 * 2**20,
        notices_seconds: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._memory_bytes = memory_bytes
        self._directory = None if directory is None else Path(directory)
        self._directory_bytes = directory_bytes
        self._notices_seconds = notices_seconds
        self._clock = clock
        self._lock = threading.Lock()
        self._memory: OrderedDict[str, Download] = OrderedDict()
        self._memory_used = 0
        self._notices: dict[str, CachedNotices] = {}
        self._busy: dict[str, tuple[threading.Lock, int]] = {}
        if self._directory is not None:
            self._directory.mkdir(parents=True, exist_ok=True)

    def fetch(self, digest: str, load: Callable[[], Download]) -> tuple[Download, bool]:
        """Return content from the cache, or load and keep it.

        Threads that want the same content at the same time wait for one of them to load it.

        Parameters
        ----------
        digest : str
            SHA-256 in hex.
        load : callable
            Gets the content, already checked against its hash.

        Returns
        -------
        download : Download
            The content.
        was_cached : bool
            Whether it was there.
        """
        found = self._from_memory(digest)
        if found is not None:
            return found, True
        with self._one_at_a_time(digest):
            found = self._from_memory(digest) or self._from_directory(digest)
            if found is not None:
                self._keep_in_memory(digest, found)
                return found, True
            loaded = load()
            self._keep_in_memory(digest, loaded)
            self._keep_in_directory(digest, loaded)
            return loaded, False

    def fetch_notices(
        self, url: str, ask: Callable[[CachedNotices | None], CachedNotices]
    ) -> tuple[CachedNotices, bool]:
        """Return the open rounds, asking the server unless it was asked a moment ago.

        Parameters
        ----------
        url : str
            Whose rounds.
        ask : callable
            Asks the server, given what is known.

        Returns
        -------
        notices : CachedNotices
            The open rounds.
        was_cached : bool
            Whether the server was not asked.
        """
        known = self._fresh_notices(url)
        if known is not None:
            return known, True
        with self._one_at_a_time(url):
            known = self._fresh_notices(url)
            if known is not None:
                return known, True
            answer = replace(ask(self._notices.get(url)), checked_at=self._clock())
            with self._lock:
                self._notices[url] = answer
            return answer, False

    def expire_notices(self) -> None:
        """Have the server asked at the next turn, because a round was opened or closed."""
        with self._lock:
            self._notices = {
                url: replace(known, checked_at=-float("inf"))
                for url, known in self._notices.items()
            }

    def _fresh_notices(self, url: str) -> CachedNotices | None:
        with self._lock:
            known = self._notices.get(url)
        if known is None or self._clock() - known.checked_at >= self._notices_seconds:
            return None
        return known

    @contextmanager
    def _one_at_a_time(self, name: str) -> Iterator[None]:
        with self._lock:
            lock, users = self._busy.get(name, (threading.Lock(), 0))
            self._busy[name] = (lock, users + 1)
        try:
            with lock:
                yield
        finally:
            with self._lock:
                lock, users = self._busy[name]
                if users == 1:
                    del self._busy[name]
                else:
                    self._busy[name] = (lock, users - 1)

    def _from_memory(self, digest: str) -> Download | None:
        # Bytes in memory cannot change, and were checked on their way in.
        with self._lock:
            found = self._memory.get(digest)
            if found is not None:
                self._memory.move_to_end(digest)
            return found

    def _keep_in_memory(self, digest: str, download: Download) -> None:
        size = len(download.data)
        if size > self._memory_bytes:
            return
        with self._lock:
            replaced = self._memory.pop(digest, None)
            if replaced is not None:
                self._memory_used -= len(replaced.data)
            self._memory[digest] = download
            self._memory_used += size
            while self._memory_used > self._memory_bytes:
                _, evicted = self._memory.popitem(last=False)
                self._memory_used -= len(evicted.data)

    def _from_directory(self, digest: str) -> Download | None:
        for path, bytes_up, bytes_down in self._files(digest):
            try:
                data = path.read_bytes()
            except OSError:
                continue  # another process may have made room
            if sha256(data).hexdigest() == digest:
                os.utime(path)
                return Download(data, bytes_up, bytes_down)
            path.unlink(missing_ok=True)
        return None

    def _keep_in_directory(self, digest: str, download: Download) -> None:
        if self._directory is None or len(download.data) > self._directory_bytes:
            return
        name = f"{digest}.{download.bytes_up}.{download.bytes_down}"
        temporary = self._directory / f".{name}.{os.getpid()}.{threading.get_ident()}"
        try:
            temporary.write_bytes(download.data)
            temporary.replace(self._directory / name)
        except OSError:
            # A full disk costs the next start a download, and this one nothing.
            temporary.unlink(missing_ok=True)
            return
        self._make_room(keep=name)

    def _make_room(self, *, keep: str) -> None:
        files = []
        for path, _, _ in self._files():
            try:
                status = path.stat()
            except OSError:
                continue
            files.append((path.name != keep, status.st_mtime, status.st_size, path))
        used = sum(size for _, _, size, _ in files)
        for may_go, _, size, path in sorted(files, key=lambda file: file[1]):
            if used <= self._directory_bytes:
                break
            if may_go:
                path.unlink(missing_ok=True)
                used -= size

    def _files(self, digest: str = "") -> Iterator[tuple[Path, int, int]]:
        if self._directory is None:
            return
        for path in sorted(self._directory.glob(f"{digest}*.*.*")):
            match = _FILE_NAME.match(path.name)
            if match:
                yield path, int(match[2]), int(match[3])
