"""The device's token: asked for once per install, and what depends on it."""

from __future__ import annotations

import secrets
import struct
from collections.abc import Callable
from typing import Final

from pocketfl import __version__
from pocketfl.device.attempt import RoundEnd
from pocketfl.errors import TransportError
from pocketfl.features.transforms import ServerTable
from pocketfl.protocol import EnrolmentRequest
from pocketfl.store import ExampleStore
from pocketfl.transport import Transport

MAX_FEATURE_PAGES: Final = 1000

_TOKEN_STATE: Final = "enrolment.token"  # noqa: S105 - where the token is kept, not the token


class DeviceToken:
    """Gets and keeps the token by which the back end knows this install.

    Parameters
    ----------
    store : ExampleStore
        Its file keeps the token.
    transport : Transport
        The line to the back end.
    enrolment_key : str or None
        The app's key; needed until there is a token.
    user : str
        The app's name for the user; a random one if empty.
    """

    def __init__(
        self, store: ExampleStore, transport: Transport, *, enrolment_key: str | None, user: str
    ) -> None:
        self._database = store.database
        self._transport = transport
        self._enrolment_key = enrolment_key
        self._user = user

    def get(self) -> str:
        """Return the token, enrolling the device if it has none.

        Raises
        ------
        RoundEnd
            If there is no enrolment key.
        TransportError
            If the server cannot be reached or refuses.
        """
        kept = self._database.read_state(_TOKEN_STATE)
        if kept is not None:
            return kept.decode()
        if self._enrolment_key is None:
            raise RoundEnd(
                "failed",
                "not_enrolled",
                "this device has no token yet; give the device an enrolment_key",
            )
        # Nobody's features are joined under a name made up here, and no two devices share it.
        user = self._user or f"anonymous-{secrets.token_hex(16)}"
        request = EnrolmentRequest(user=user, sdk=__version__)
        token = self._transport.enrol(self._enrolment_key, request).token
        self._database.write_state(_TOKEN_STATE, token.encode())
        # Once per install. By its token the server knows that a device had its place in a round, so a
        # log that is damaged later must not take the token along.
        self._database.move_log_into_file()
        return token

    def forget(self) -> None:
        """Drop a token that the server does not know, to enrol again."""
        self._database.delete_state(_TOKEN_STATE)


class FeatureDownloads:
    """Keeps the user's server-side features on the device fresh.

    Parameters
    ----------
    store : ExampleStore
        Where they are kept.
    transport : Transport
        The line to the back end.
    token : DeviceToken
        Says whose features.
    max_age : float
        Seconds after which they are asked for again.
    clock : callable
        Unix time in seconds.
    """

    def __init__(
        self,
        store: ExampleStore,
        transport: Transport,
        *,
        token: DeviceToken,
        max_age: float,
        clock: Callable[[], float],
    ) -> None:
        self._store = store
        self._transport = transport
        self._token = token
        self._max_age = max_age
        self._clock = clock

    def refresh(self, table: ServerTable) -> None:
        """Download what is new of a table, unless it was asked for lately.

        Raises
        ------
        TransportError
            If the server cannot be reached, or its pages do not end.
        """
        database = self._store.database
        name, now = f"features_fetched_at/{table.name}", self._clock()
        kept = database.read_state(name)
        if kept is not None and len(kept) == 8:
            (fetched_at,) = struct.unpack("<d", kept)
            if 0 <= now - fetched_at < self._max_age:
                return
        token = self._token.get()
        cursor = self._store.server_features_cursor(table.name)
        for _ in range(MAX_FEATURE_PAGES):
            page = self._transport.features(token, table.name, cursor)
            self._store.put_server_features(table.name, page.rows, cursor=page.next_cursor)
            if page.next_cursor is None:
                database.write_state(name, struct.pack("<d", now))
                return
            if page.next_cursor == cursor:
                break
            cursor = page.next_cursor
        raise TransportError(
            f"the server's pages of table {table.name!r} do not come to an end",
            code="endless_pages",
        )
