"""Whether this device takes part in a round: its own coin, its own count, no server asked.

The accountant assumes that every device joins a round independently with the probability that the
signed plan states (Poisson sampling). So each device tosses its own coin, once per round, before it
says anything to the server: a keyed hash of the round, under a secret that never leaves the install.
A server can neither choose who takes part nor have a round tossed again.

The plan's cap on participations counts heads and nothing else, whether or not the round was finished.
It cannot be reset: heads count for a task across all plans that it ever had, and for a plan across all
tasks that ever used it, so neither a new version of the plan nor a new name of the task starts
afresh. A plan is known by its signed manifest: anybody can pack the same manifest into an archive with
another hash, nobody but the modeller can change it.
"""

from __future__ import annotations

import hmac
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from pocketfl.database import Database
from pocketfl.errors import PlanError, StoreError
from pocketfl.plan.aggregation import AggregationSpec

SECRET_BYTES: Final = 32

ParticipationState: TypeAlias = Literal[
    "tails", "capped", "separated", "tossed", "training", "uploaded", "abandoned"
]
"""Where a device stands in a round.

``tails``, ``capped`` and ``separated`` (too soon after the last) are no participation. ``tossed`` is
heads with nothing sent yet, ``training`` holds a lease, ``uploaded`` and ``abandoned`` are over: from
neither does the device report again.
"""

_NEXT: Final[dict[str, frozenset[str]]] = {
    "tossed": frozenset({"training", "abandoned"}),
    "training": frozenset({"uploaded", "abandoned"}),
}
_COIN_STATE: Final = "participation.secret"
_LABEL: Final = b"pocketfl coin 1"


def coin(secret: bytes, *, task: str, round: int, manifest_sha256: str) -> float:  # noqa: A002
    """Return this device's coin for a round: uniform to everybody without the secret, always the same.

    Parameters
    ----------
    secret : bytes
        The install's own 32 random bytes.
    task : str
        Name of the task.
    round : int
        Number of the round.
    manifest_sha256 : str
        The plan: SHA-256 (hex) of its signed manifest.

    Returns
    -------
    float
        In [0, 1), from the first 53 bits of HMAC-SHA256 (RFC 2104) over the three.
    """
    return keyed_uniform(secret, _LABEL, task, str(round), manifest_sha256)


def keyed_uniform(secret: bytes, label: bytes, *texts: str) -> float:
    """Return a number that is uniform to everybody without the secret, and always the same.

    Parameters
    ----------
    secret : bytes
        The device's own, 32 random bytes.
    label : bytes
        What the number is for.
    texts : str
        What it depends on.

    Returns
    -------
    float
        In [0, 1), from the first 53 bits of HMAC-SHA256 (RFC 2104).
    """
    message = bytearray(label)
    for text in texts:
        encoded = text.encode()
        message += len(encoded).to_bytes(4, "big") + encoded
    digest = hmac.digest(secret, message, "sha256")
    return (int.from_bytes(digest[:8], "big") >> 11) / 2.0**53


@dataclass(frozen=True, kw_only=True)
class Toss:
    """The device's standing answer for one round.

    Attributes
    ----------
    state : str
        See :data:`ParticipationState`.
    heads : int
        Participations counted against the plan's cap, this round's included.
    is_new : bool
        Whether the coin was tossed by this very call.
    """

    state: ParticipationState
    heads: int
    is_new: bool


class Participation:
    """The device's memory of its coins, in its own database.

    Parameters
    ----------
    database : Database
        The device's file; holds the secret and one row per round that was tossed.
    clock : callable, optional
        Unix time in seconds.
    """

    def __init__(self, database: Database, *, clock: Callable[[], float] = time.time) -> None:
        self._database = database
        self._clock = clock
        self._secret = self._load_secret()

    def _load_secret(self) -> bytes:
        with self._database.transaction():
            secret = self._database.read_state(_COIN_STATE)
            if secret is None:
                secret = os.urandom(SECRET_BYTES)
                self._database.write_state(_COIN_STATE, secret)
        if len(secret) != SECRET_BYTES:
            raise StoreError(
                "the secret of the device's coin is damaged; delete it to make a new one"
            )
        return secret

    def toss(
        self,
        *,
        task: str,
        round: int,  # noqa: A002
        manifest_sha256: str,
        aggregation: AggregationSpec,
        separation: int = 1,
    ) -> Toss:
        """Toss the coin of a round, or return the answer that was given before.

        Parameters
        ----------
        task : str
            Name of the task.
        round : int
            Number of the round.
        manifest_sha256 : str
            The verified plan: SHA-256 (hex) of its signed manifest.
        aggregation : AggregationSpec
            The plan's sampling probability and cap.
        separation : int
            Fewest rounds from one participation to the next, of the task or under the plan.

        Returns
        -------
        Toss
            On disk before it is returned.

        Raises
        ------
        PlanError
            If this round was tossed under another plan: no round is tossed twice.
        """
        with self._database.transaction() as connection:
            rows = connection.execute(
                "SELECT plan_sha256, state FROM participations WHERE task = ? AND round = ?",
                (task, round),
            ).fetchall()
            heads = self.heads(task=task, manifest_sha256=manifest_sha256)
            if rows:
                tossed_under, standing = rows[0]
                if tossed_under != manifest_sha256:
                    raise PlanError(
                        f"round {round} of {task!r} was already tossed under the plan "
                        f"{tossed_under[:16]}, and is now announced with {manifest_sha256[:16]}"
                    )
                return Toss(state=standing, heads=heads, is_new=False)
            value = coin(self._secret, task=task, round=round, manifest_sha256=manifest_sha256)
            state: ParticipationState = "tails"
            if value < aggregation.sampling_probability:
                state = "tossed" if heads < aggregation.max_participations else "capped"
                if state == "tossed" and self._took_part_since(
                    task, manifest_sha256, round, separation
                ):
                    state = "separated"
            connection.execute(
                "INSERT INTO participations(task, round, plan_sha256, tossed_at, state) "
                "VALUES(?, ?, ?, ?, ?)",
                (task, round, manifest_sha256, self._clock(), state),
            )
            return Toss(state=state, heads=heads + (state == "tossed"), is_new=True)

    def would_be_heads(
        self,
        *,
        task: str,
        round: int,  # noqa: A002
        manifest_sha256: str,
        aggregation: AggregationSpec,
    ) -> bool:
        """Return what the coin of a round shows, without asking or changing the database.

        Spares a device whose coin comes up tails, which is most of them, any further work.
        """
        value = coin(self._secret, task=task, round=round, manifest_sha256=manifest_sha256)
        return value < aggregation.sampling_probability

    def advance(self, *, task: str, round: int, state: ParticipationState) -> None:  # noqa: A002
        """Record how far a round has come; on disk before it returns.

        Raises
        ------
        StoreError
            If the round does not stand where it could come to that state: a report that was uploaded or
            abandoned is never made again.
        """
        with self._database.transaction() as connection:
            earlier = [before for before, after in _NEXT.items() if state in after]
            changed = connection.execute(
                "UPDATE participations SET state = ? WHERE task = ? AND round = ? "  # noqa: S608
                f"AND state IN ({', '.join('?' * len(earlier))})",
                (state, task, round, *earlier),
            )
            if changed.rowcount != 1:
                standing = self.standing(task=task, round=round) or "not tossed"
                raise StoreError(
                    f"round {round} of {task!r} is {standing} and cannot become {state}"
                )

    def standing(self, *, task: str, round: int) -> ParticipationState | None:  # noqa: A002
        """Return how far a round has come, or None if its coin was not tossed."""
        rows = self._database.query(
            "SELECT state FROM participations WHERE task = ? AND round = ?", (task, round)
        )
        return rows[0][0] if rows else None

    def heads(self, *, task: str, manifest_sha256: str) -> int:
        """Return the participations that count against the cap, of this task or under this plan."""
        rows = self._database.query(
            "SELECT count(*) FROM participations WHERE (task = ? OR plan_sha256 = ?) "
            "AND state NOT IN ('tails', 'capped', 'separated')",
            (task, manifest_sha256),
        )
        return int(rows[0][0])

    def _took_part_since(
        self,
        task: str,
        manifest_sha256: str,
        round: int,  # noqa: A002
        separation: int,
    ) -> bool:
        """Return whether a participation lies closer to a round than the separation, on either side."""
        if separation <= 1:
            return False
        rows = self._database.query(
            "SELECT count(*) FROM participations WHERE (task = ? OR plan_sha256 = ?) "
            "AND abs(round - ?) < ? AND state NOT IN ('tails', 'capped', 'separated')",
            (task, manifest_sha256, round, separation),
        )
        return int(rows[0][0]) > 0
