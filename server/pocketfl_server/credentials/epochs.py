"""Which rounds one anonymous token is for, and how far a device's tokens lie apart.

A token is good for one check-in within an epoch: so many rounds in a row, as the task says. A device
that has the token of an epoch gets none for another one with a round that is closer to it than the
plan's ``min_separation``. So whatever a device does with its tokens, and whether or not it counts
rounds itself, its check-ins are at least that far apart, and in the first ``r`` rounds there are at
most ``ceil(r / min_separation)`` of them: the number that the accountant assumes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

AHEAD: Final = 8
"""For how many epochs to come tokens are to be had."""
MAX_ROUNDS: Final = 1_000_000


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """Rounds in a row, both ends included."""

    first: int
    last: int


def epoch_of(number: int, *, rounds_per_token: int) -> Epoch:
    """Return the epoch of a round; epochs follow each other from round 1 on."""
    index = (number - 1) // rounds_per_token
    return Epoch(first=index * rounds_per_token + 1, last=(index + 1) * rounds_per_token)


def epochs_ahead(latest: int, *, rounds_per_token: int) -> tuple[Epoch, ...]:
    """Return the epochs that begin after a round, :data:`AHEAD` of them."""
    following = epoch_of(latest, rounds_per_token=rounds_per_token).last + 1 if latest else 1
    return tuple(
        epoch_of(following + n * rounds_per_token, rounds_per_token=rounds_per_token)
        for n in range(AHEAD)
    )


def epochs_apart(rounds_per_token: int, *, separation: int) -> int:
    """Return of how many epochs in a row a device has a token for one.

    The last round of one epoch and the first of the next but ``k - 1`` are
    ``(k - 1) * rounds_per_token + 1`` apart, which is at least the separation.
    """
    return 1 + -(-(separation - 1) // rounds_per_token)


def check_rounds_per_token(rounds_per_token: int | None, *, separation: int) -> int:
    """Return a task's rounds per token; without a wish, as many as the separation.

    Raises
    ------
    ValueError
        If it is out of range, or so small that of the tokens to be had a device could get none.
    """
    chosen = separation if rounds_per_token is None else rounds_per_token
    if not 1 <= chosen <= MAX_ROUNDS:
        raise ValueError(f"rounds_per_token must be 1 to {MAX_ROUNDS:,}")
    if epochs_apart(chosen, separation=separation) > AHEAD:
        least = -(-(separation - 1) // (AHEAD - 1))
        raise ValueError(
            f"rounds_per_token must be at least {least} for a separation of {separation} rounds"
        )
    return chosen
