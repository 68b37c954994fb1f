"""The share of a fleet that a device belongs to: drawn by the device, and never told to anybody."""

from __future__ import annotations

import os
from typing import Final

from pocketfl.database import Database
from pocketfl.errors import StoreError
from pocketfl.sampling import SECRET_BYTES, keyed_uniform

_STATE: Final = "rollout.bucket"
_LABEL: Final = b"pocketfl rollout bucket 1"


class Bucket:
    """Numbers of one device for its rollouts.

    They come from a secret of the device's own that serves nothing else, so neither the coin of a
    round nor anything else that a server sees says which share a device is in.

    Parameters
    ----------
    database : Database
        The device's file; keeps the secret.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._secret: bytes | None = None

    def of(self, task: str, *, salt: str) -> float:
        """Return the device's number for a task, in [0, 1); another salt draws another one.

        Raises
        ------
        StoreError
            If the secret is damaged.
        """
        if self._secret is None:
            self._secret = self._load_secret()
        return keyed_uniform(self._secret, _LABEL, task, salt)

    def _load_secret(self) -> bytes:
        with self._database.transaction():
            secret = self._database.read_state(_STATE)
            if secret is None:
                secret = os.urandom(SECRET_BYTES)
                self._database.write_state(_STATE, secret)
        if len(secret) != SECRET_BYTES:
            raise StoreError("the secret of the device's bucket is damaged; delete it to redraw it")
        return secret
