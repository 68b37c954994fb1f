"""The latest rollout document of each task that a device has seen, and no way back before it."""

from __future__ import annotations

from contextlib import suppress
from hashlib import sha256
from typing import Final

from pocketfl.database import Database
from pocketfl.errors import ModelStoppedError, RolloutError
from pocketfl.plan.manifest import Manifest
from pocketfl.rollout.document import Rollout, is_older_plan, load_rollout, read_signed

_PREFIX: Final = "rollout_of/"


class RolloutBook:
    """Signed documents in the device's own file, by task.

    Parameters
    ----------
    database : Database
        The device's file.
    trusted_keys : frozenset of bytes
        Raw Ed25519 public keys whose rollouts are obeyed.
    """

    def __init__(self, database: Database, *, trusted_keys: frozenset[bytes]) -> None:
        self._database = database
        self._trusted_keys = trusted_keys
        # With the bytes that they were read from: another process may have put newer ones.
        self._read: dict[str, tuple[bytes, Rollout | None]] = {}

    def current(self, task: str) -> Rollout | None:
        """Return a task's rollout; None if it has none, or its signer is not trusted any more."""
        kept = self._database.read_state(_PREFIX + task)
        if kept is None:
            return None
        read = self._read.get(task)
        if read is None or read[0] != kept:
            found = None
            # The app was built anew with other keys, or the file is damaged: neither may speak.
            with suppress(RolloutError):
                found = load_rollout(kept, trusted_keys=self._trusted_keys)
            read = self._read[task] = (kept, found)
        return read[1]

    def all(self) -> dict[str, Rollout]:
        """Return the rollout of each task that has one."""
        rows = self._database.query(
            "SELECT name FROM device_state WHERE name LIKE ? ORDER BY name", (_PREFIX + "%",)
        )
        rollouts = {
            task: self.current(task) for task in (name.removeprefix(_PREFIX) for (name,) in rows)
        }
        return {task: rollout for task, rollout in rollouts.items() if rollout is not None}

    def has(self, task: str, digest: str) -> bool:
        """Say whether the kept document of a task is the one with this SHA-256 (hex)."""
        kept = self._database.read_state(_PREFIX + task)
        return kept is not None and sha256(kept).hexdigest() == digest

    def accept(self, task: str, data: bytes) -> Rollout:
        """Keep a document that came over the network, in place of the one before.

        Raises
        ------
        RolloutError
            If it cannot be trusted, is of another task, or does not count up.
        """
        rollout = load_rollout(data, trusted_keys=self._trusted_keys)
        if rollout.task != task:
            raise RolloutError(f"the rollout is of task {rollout.task!r}, not of {task!r}")
        with self._database.transaction():
            kept = self._database.read_state(_PREFIX + task)
            if kept is not None:
                seen = _sequence_of(kept)
                if rollout.sequence <= seen and kept != data:
                    raise RolloutError(
                        f"the rollout of {task!r} has number {rollout.sequence}, and this device has "
                        f"seen {seen}: an old one was handed out again, or two were made with one "
                        "number"
                    )
            self._database.write_state(_PREFIX + task, data)
        return rollout

    def require_usable(self, task: str, manifest: Manifest) -> None:
        """Refuse a plan of a model that is stopped, or one that is too old.

        Raises
        ------
        ModelStoppedError
            Saying which.
        """
        rollout = self.current(task)
        if rollout is None:
            return
        if rollout.stopped is not None:
            raise ModelStoppedError(f"the model of {task!r} is stopped: {rollout.stopped}")
        minimum = rollout.minimum_plan_version
        if minimum is not None and is_older_plan(manifest.version, minimum):
            raise ModelStoppedError(
                f"the plan of {task!r} has version {manifest.version}, and {minimum} is the oldest "
                "that may be used"
            )


def _sequence_of(kept: bytes) -> int:
    """Return the number of a document that was accepted once, whoever is trusted now; 0 if damaged."""
    try:
        return read_signed(kept)[1].sequence
    except RolloutError:
        return 0
