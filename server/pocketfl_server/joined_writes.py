"""Answers that leave in one piece: head and body with a single call of the system.

uvicorn writes an answer's head before it has seen the body. Apart, they are two packets, and a client
that waits is woken up for the first one to find half an answer.
"""

from __future__ import annotations

import asyncio
from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol


class JoinedWritesProtocol(HttpToolsProtocol):
    """uvicorn's protocol over a :class:`JoinedWrites`; for ``uvicorn.Config(http=...)``."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to serve a connection."""
        super().connection_made(cast("asyncio.Transport", JoinedWrites(transport, self.loop)))


class JoinedWrites:
    """A transport that holds a first piece until the second, or until the loop's next turn.

    Parameters
    ----------
    transport : asyncio.Transport
        What it stands for; everything else is that one's.
    loop : asyncio.AbstractEventLoop
        Whose turns count.
    """

    __slots__ = ("_held", "_loop", "_transport", "_turn")

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._held: bytes | None = None
        self._turn: asyncio.Handle | None = None

    def write(self, data: bytes) -> None:
        """Send a piece, together with one that was held, or hold it for the one that comes next."""
        if self._held is None:
            self._held = data
            self._turn = self._loop.call_soon(self._release)
            return
        pieces = [self._held, data]
        self._forget()
        self._transport.writelines(pieces)

    def close(self) -> None:
        """Send what is held, and close once all is sent."""
        self._release()
        self._transport.close()

    def _release(self) -> None:
        held = self._held
        self._forget()
        # Whoever asked may have gone meanwhile.
        if held is not None and not self._transport.is_closing():
            self._transport.write(held)

    def _forget(self) -> None:
        self._held = None
        if self._turn is not None:
            self._turn.cancel()
            self._turn = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)
