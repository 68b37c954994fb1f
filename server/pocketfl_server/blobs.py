"""Plans, parameters, optimizer states and rollouts by their SHA-256; never changed, never deleted."""

from __future__ import annotations

import threading
from collections import OrderedDict
from hashlib import sha256
from typing import Final, Literal

from sqlalchemy import Connection, bindparam, select

from pocketfl_server.database import Database, blobs
from pocketfl_server.errors import NotFound

BlobKind = Literal["plan", "parameters", "optimizer_state", "rollout"]

CACHE_BYTES: Final = 256 * 2**20

_GET = select(blobs.c.data).where(
    blobs.c.kind == bindparam("kind"), blobs.c.sha256 == bindparam("sha256")
)
_EXISTS = select(blobs.c.sha256).where(
    blobs.c.kind == bindparam("kind"), blobs.c.sha256 == bindparam("sha256")
)


class Blobs:
    """Content-addressed bytes with a bounded cache of those that were asked for last.

    Parameters
    ----------
    database : Database
        Where they are kept.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._insert = database.insert_or_ignore(blobs)
        self._lock = threading.Lock()
        self._cache: OrderedDict[tuple[str, str], bytes] = OrderedDict()
        self._cached_bytes = 0

    def put(self, connection: Connection, kind: BlobKind, data: bytes) -> str:
        """Store bytes, unless they are stored already, and return their SHA-256 in hex."""
        digest = sha256(data).hexdigest()
        connection.execute(self._insert, {"kind": kind, "sha256": digest, "data": data})
        return digest

    def get(self, kind: BlobKind, digest: str) -> bytes:
        """Return stored bytes.

        Raises
        ------
        NotFound
            With code ``unknown_plan``, ``unknown_parameters``, ``unknown_optimizer_state`` or
            ``unknown_rollout``.
        """
        with self._lock:
            data = self._cache.get((kind, digest))
            if data is not None:
                self._cache.move_to_end((kind, digest))
                return data
        with self._database.reading() as connection:
            found = connection.execute(_GET, {"kind": kind, "sha256": digest}).scalar()
        if found is None:
            raise NotFound(f"no {kind} with SHA-256 {digest[:64]!r} here", code=f"unknown_{kind}")
        data = bytes(found)
        self._remember(kind, digest, data)
        return data

    def exists(self, kind: BlobKind, digest: str) -> bool:
        """Say whether these bytes are stored."""
        with self._lock:
            if (kind, digest) in self._cache:
                return True
        with self._database.reading() as connection:
            return connection.execute(_EXISTS, {"kind": kind, "sha256": digest}).first() is not None

    def _remember(self, kind: str, digest: str, data: bytes) -> None:
        if len(data) > CACHE_BYTES // 2:
            return
        with self._lock:
            if (kind, digest) not in self._cache:
                self._cache[kind, digest] = data
                self._cached_bytes += len(data)
            while self._cached_bytes > CACHE_BYTES:
                _, dropped = self._cache.popitem(last=False)
                self._cached_bytes -= len(dropped)
